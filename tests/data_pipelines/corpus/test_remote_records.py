"""A stream from a bucket is the stream from the disk; up to the client: the bucket is in memory."""

import random

import numpy as np
import pytest
from array_record.python import array_record_module
from etils import epath

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets, remote_records
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields, stream
from tests import corpora

VIDEO = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)
IMAGE = buckets.Bucket('image', 1, 32, 32, fps=1, batch_size=4, media='image')


@pytest.fixture
def bucket():
  yield from corpora.bucket()


def write(path, records, options='group_size:1,uncompressed'):
  writer = array_record_module.ArrayRecordWriter(str(path), options)
  for record in records:
    writer.write(record)
  writer.close()


def test_ranges_give_the_records_that_array_record_wrote(tmp_path):
  """Of sizes around those of riegeli's blocks, whose headers lie within the records."""
  drawn = random.Random(0)
  sizes = [0, 1, 100, 65_000, *range(65_450, 65_550, 7), 131_072, 200_000]
  for _ in range(10):
    records = [drawn.randbytes(drawn.choice(sizes)) for _ in range(30)]
    write(tmp_path / 'shard', records)
    reader = remote_records.Reader(f'file://{tmp_path}/shard')
    assert reader.num_records() == 30
    assert reader.read(range(30)) == records


def test_no_flipped_bit_changes_a_record(tmp_path):
  """In any byte, in the headers of chunks and blocks, in the footer: found, or harmless."""
  drawn = random.Random(0)
  records = [drawn.randbytes(size) for size in (0, 9, 300, 70_000, 5_000, 300, 66_000, 20)]
  write(tmp_path / 'shard', records)
  whole = (tmp_path / 'shard').read_bytes()
  offsets = remote_records.Reader(f'file://{tmp_path}/shard')._offsets.tolist()
  headers = [start + i for start in (*offsets, 0, 1 << 16) for i in range(40)]
  footer = range(offsets[-1], offsets[-1] + 200)
  num_found = 0
  for turn in range(180):
    damaged = bytearray(whole)
    place = drawn.choice((range(len(whole)), headers, footer)[turn % 3])
    damaged[place] ^= 1 << drawn.randrange(8)
    (tmp_path / 'shard').write_bytes(damaged)
    for i, record in enumerate(records):
      try:
        found = remote_records.Reader(f'file://{tmp_path}/shard').read([i])
      except (ValueError, RuntimeError, IndexError):
        num_found += 1
      else:
        assert found == [record], (place, i)
  assert num_found > 100


def test_a_range_that_is_damaged_on_its_way_is_asked_for_again(tmp_path, monkeypatch):
  write(tmp_path / 'shard', [b'a' * 999] * 9)
  reader = remote_records.Reader(f'file://{tmp_path}/shard')
  fetch, turns = reader._request, iter([0x10, 0, 0x10, 0x10])

  def damaged(start, end):
    found = bytearray(fetch(start, end))
    found[500] ^= next(turns)
    return bytes(found)

  monkeypatch.setattr(reader, '_request', damaged)
  assert reader.read([3]) == [b'a' * 999]
  with pytest.raises(RuntimeError, match='hash mismatch'):
    reader.read([4])


def test_other_files_are_refused(tmp_path):
  (tmp_path / 'short').write_bytes(b'html')
  (tmp_path / 'zeros').write_bytes(bytes(1 << 18))
  write(tmp_path / 'packed', [b'a' * 99] * 100, 'group_size:1,zstd')
  write(tmp_path / 'groups', [b'a'] * 100, 'group_size:10,uncompressed')
  for name, message in (
    ('short', 'too short'), ('zeros', 'no whole chunk'), ('packed', 'compressed'),
    ('groups', 'more than one record per chunk'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      remote_records.Reader(f'file://{tmp_path}/{name}')


def open_stream(directories, **options):
  tokenize = lambda captions: np.array([[len(caption)] for caption in captions])  # noqa: E731
  return stream.TrainStream(
    directories, [VIDEO, IMAGE], fields.released(tokenize, 16), seed=0, **options
  )


def copy(folder, target):
  for file in folder.rglob('*'):
    if file.is_file():
      epath.Path(f'{target}/{file.relative_to(folder)}').write_bytes(file.read_bytes())


def test_a_bucket_streams_as_the_disk_does(bucket, tmp_path):
  demo_corpus.write(str(tmp_path / 'demo'), num_videos=10, num_validation=4, num_images=10)
  here, there = {}, {}
  for name, source in (('videos', 'webvid'), ('images', 'images')):
    here[name], there[name] = str(tmp_path / name), f'gs://held/{name}'
    ingest.ingest(str(tmp_path / 'demo' / source), here[name], num_processes=1)
  for folder in here:
    copy(tmp_path / folder, f'gs://held/{folder}')
  index.index(here, str(tmp_path / 'index'))
  index.index(
    there, str(tmp_path / 'of_bucket')
  )  # This bucket has no conditions, as a lease needs.
  copy(tmp_path / 'of_bucket', 'gs://held/index')
  for made_with in (dict(), dict(index='index')):
    options = [
      {name: f'{root}/{value}' for name, value in made_with.items()}
      for root in (tmp_path, 'gs://held')
    ]
    local = open_stream(here, sandbox=False, **options[0])
    remote = open_stream(there, sandbox=False, max_bad_fraction=0.2, **options[1])
    assert remote.fingerprint == local.fingerprint
    for step in range(4):
      for name, values in local.batch_at(step).items():
        np.testing.assert_array_equal(remote.batch_at(step)[name], values)
    assert remote.num_bad == 0
  held = stream.held_out(
    there['videos'],
    VIDEO,
    fields.released(lambda captions: np.zeros(len(captions)), 16),
    4,
    sandbox=False,
  )
  assert len(held['key']) == 4
  example = remote.examples_at(0)[0]
  epath.Path(example['shard']).write_bytes(b'cut off')
  damaged = open_stream(there, sandbox=False, max_bad_fraction=0.0)
  with pytest.raises(stream.DataError, match='bytes from'):
    for step in range(4):
      damaged.batch_at(step)
