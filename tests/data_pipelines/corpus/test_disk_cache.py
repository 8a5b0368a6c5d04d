"""What was read from a bucket is kept on the local disk, within its bound, and never trusted."""

import pathlib

import pytest

from data_pipelines.corpus import disk_cache, remote_records
from tests.data_pipelines.corpus import test_remote_records


def files(folder):
  return [path for path in pathlib.Path(folder).glob('*/*')]


def test_values_come_back_and_the_oldest_go_first(tmp_path):
  cache = disk_cache.DiskCache(str(tmp_path), max_bytes=100_000)
  other = disk_cache.DiskCache(str(tmp_path), max_bytes=100_000)  # Of another process.
  for number in range(300):
    (cache if number % 2 else other).put(str(number), number.to_bytes(2, 'big') * 500)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 100_000
    assert cache.get('0') is not None or number > 250  # What is used stays.
  kept = [number for number in range(300) if other.get(str(number)) is not None]
  assert len(kept) > 80 and min(kept[1:]) > 150
  assert all(cache.get(str(n)) == n.to_bytes(2, 'big') * 500 for n in kept)
  assert cache.get('never') is None
  cache.put('larger than all', bytes(100_000))
  assert cache.get('larger than all') is None


def test_a_disk_that_takes_nothing_is_no_error(tmp_path):
  (tmp_path / 'file').write_text('')
  cache = disk_cache.DiskCache(str(tmp_path / 'file'), max_bytes=1_000_000)
  cache.put('a', b'a')
  assert cache.get('a') is None
  with pytest.raises(ValueError, match='shard_cache=.*file cannot be written: File exists'):
    disk_cache.DiskCache.at(str(tmp_path / 'file'), 1)


def test_each_range_is_asked_for_once_and_damage_on_the_disk_is_mended(tmp_path, monkeypatch):
  records = [bytes([i]) * 5_000 for i in range(20)]
  test_remote_records.write(tmp_path / 'shard', records)
  url = f'file://{tmp_path}/shard'
  size, footer, _ = remote_records.layout_of(url)
  layout = remote_records.Layout(size, footer, 'a' * 64)
  cache = disk_cache.DiskCache(str(tmp_path / 'cache'), max_bytes=10_000_000)
  asked = []
  request = remote_records.Reader._request

  def counted(self, start, end):
    asked.append(start)
    return request(self, start, end)

  monkeypatch.setattr(remote_records.Reader, '_request', counted)
  read = lambda: remote_records.Reader(url, layout, cache).read(range(20))  # noqa: E731
  assert read() == records and len(asked) == 21
  assert read() == records and len(asked) == 21
  for path in files(tmp_path / 'cache'):  # The footer's file too.
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    path.write_bytes(damaged)
  assert read() == records and 21 < len(asked) <= 42
  so_far = len(asked)
  assert read() == records and len(asked) == so_far
  other = remote_records.Layout(size, footer, 'b' * 64)  # Another file at the same place.
  assert remote_records.Reader(url, other, cache).read([3]) == [records[3]]
  assert len(asked) == so_far + 2
