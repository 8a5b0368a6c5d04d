"""Records of a bucket are asked for many at once, within bounds, and come in order."""

import io
import threading
import time

import PIL.Image
import pytest

from data_pipelines.corpus import reader, remote_records, storage
from data_pipelines.ingest import command as ingest
from data_pipelines.media.errors import DecodeError
from tests import corpora


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  """Forty pictures in one shard."""
  folder = tmp_path_factory.mktemp('ahead')
  data = io.BytesIO()
  PIL.Image.new('RGB', (24, 24)).save(data, 'png')
  pictures = {f'{i:02d}.png': data.getvalue() + bytes(i) for i in range(40)}
  corpora.write_files(folder / 'in', pictures)
  corpora.write_files(folder / 'in', {f'{i:02d}.txt': f'caption {i}' for i in range(40)})
  ingest.ingest(str(folder / 'in'), str(folder / 'out'), validation_fraction=0.0, num_processes=1)
  return folder / 'out'


def remote(directory):
  """(Records, its shard) as if the corpus were in a bucket."""
  [shard] = reader.read_manifest(directory)['splits']['train']['shards']
  url = f'file://{directory}/{shard["records"]}'
  layout = remote_records.Layout(shard['size'], shard['footer'])
  return reader.Records(remote=reader.Remote({url: layout})), url


def slowly(monkeypatch, secs):
  """Requests take so long; returns the number under way at each one's start."""
  request, under_way, seen, lock = remote_records.Reader._request, [0], [], threading.Lock()

  def delayed(self, start, end):
    with lock:
      under_way[0] += 1
      seen.append(under_way[0])
    time.sleep(secs)
    with lock:
      under_way[0] -= 1
    return request(self, start, end)

  monkeypatch.setattr(remote_records.Reader, '_request', delayed)
  return seen


def test_many_are_asked_for_at_once_and_come_in_order(directory, monkeypatch):
  records, url = remote(directory)
  records.read(url, 0)  # Opens the shard.
  seen = slowly(monkeypatch, 0.05)
  order = [(7 * i) % 40 for i in range(40)]
  found = list(records.read_ahead((url, i) for i in order))
  assert [record['caption'] for record in found] == [f'caption {i}' for i in order]
  assert len(seen) == 40 and storage.IN_FLIGHT // 2 < max(seen) <= storage.IN_FLIGHT


def test_a_shard_is_opened_by_one_request(directory, monkeypatch):
  seen = slowly(monkeypatch, 0.0)
  records, url = remote(directory)
  records.read(url, 3)
  records.read(url, 4)
  assert len(seen) == 3


def test_of_many_threads_one_opens_a_shard(directory, monkeypatch):
  seen = slowly(monkeypatch, 0.02)
  records, url = remote(directory)
  assert len(list(records.read_ahead((url, i) for i in range(40)))) == 40
  assert len(seen) == 41


def test_no_more_waits_than_memory_allows(directory, monkeypatch):
  records, url = remote(directory)
  records.read(url, 0)  # Opens the shard.
  monkeypatch.setattr(reader, 'MAX_WAITING', 1)
  seen = slowly(monkeypatch, 0.05)
  ahead = records.read_ahead((url, i) for i in range(40))
  next(ahead)
  time.sleep(0.5)  # All that was asked for is there.
  asked = len(seen)
  assert asked <= storage.IN_FLIGHT
  for _ in range(asked - 2):  # One is left that nobody has asked for, and that is enough.
    next(ahead)
  time.sleep(0.3)  # For requests that should not be.
  assert len(seen) == asked
  assert [record['caption'] for record in ahead] == [f'caption {i}' for i in range(asked - 1, 40)]


def test_what_cannot_be_read_is_an_error_in_its_place(directory, tmp_path):
  records, url = remote(directory)
  found = list(records.read_ahead([(url, 1), (url, 99), (f'file://{tmp_path}/none', 0), (url, 2)]))
  assert [isinstance(record, DecodeError) for record in found] == [False, True, True, False]
  path = str(directory / url.rpartition('/')[2])
  local = list(reader.Records().read_ahead([(path, 1), (path, 99), (path, 2)]))
  assert [found[0], found[3]] == [local[0], local[2]] and isinstance(local[1], DecodeError)


def test_nobody_waits_for_threads_when_storage_stays_away(directory, monkeypatch):
  records, url = remote(directory)

  def gone(self, start, end):
    raise reader.retries.StorageError('storage did not answer')

  monkeypatch.setattr(remote_records.Reader, '_request', gone)
  with pytest.raises(reader.retries.StorageError):
    list(records.read_ahead((url, i) for i in range(40)))
