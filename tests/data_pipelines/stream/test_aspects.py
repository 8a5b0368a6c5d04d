"""Buckets by aspect: an example goes where it is cropped least, and with none nothing changes."""

import hashlib
import json
import pathlib

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets
from data_pipelines.index import command as index
from data_pipelines.index import table
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib

# Without aspects: fingerprint of the stream, and a digest of what its first 60 steps draw, as they
# were before there were aspects; by what else is asked for.
BEFORE = dict(
  plain=('f45d467bfb60af06', '5474d04a99b1772a'),
  index=('f5257f29bc67c4fe', 'bcd83fcd997f77f2'),
  phases=('1e0fa345adf9779b', '1b55ffb18bfa0109'),
)


def write_corpus(root, sizes, num_frames=6):
  """A folder of media, named by number and size (height, width); ingested into root/corpus."""
  (root / 'media').mkdir(parents=True)
  for number, (media, height, width) in enumerate(sizes):
    rng = np.random.default_rng(number)
    name = f'{number:03d}_{height}x{width}'
    pixels = rng.integers(60, 200, (num_frames, height // 8, width // 8, 3), np.uint8)
    pixels = pixels.repeat(8, axis=1).repeat(8, axis=2)
    if media == 'image':
      PIL.Image.fromarray(pixels[0]).save(root / 'media' / f'{name}.png')
    else:
      (root / 'media' / f'{name}.mp4').write_bytes(demo_corpus.encode_video(pixels, fps=8))
    (root / 'media' / f'{name}.txt').write_text(name)
  directory = str(root / 'corpus')
  ingest.ingest(str(root / 'media'), directory, validation_fraction=0.0, num_processes=1)
  return directory


def open_stream(directories, bucket_list, seed=5, **options):
  tokens = lambda captions: np.zeros((len(captions), 1), np.int32)  # noqa: E731
  options = dict(sandbox=False) | options
  return stream_lib.TrainStream(
    directories, bucket_list, fields.released(tokens, 16), seed, **options
  )


def pin(directory, fingerprint):
  """Gives a corpus another fingerprint: that of its bytes changes with the encoder's version."""
  path = pathlib.Path(directory) / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(fingerprint=fingerprint)))


@pytest.fixture(scope='module')
def pinned(tmp_path_factory):
  """(directories, folder of an index of them), whose fingerprints no encoder changes."""
  root = tmp_path_factory.mktemp('pinned')
  video, image = ('video', 32, 32), ('image', 32, 48)
  directories = {
    'a': write_corpus(root / 'a', [video] * 9 + [image] * 4),
    'b': write_corpus(root / 'b', [video] * 5 + [image] * 3),
  }
  for name, directory in directories.items():
    pin(directory, name * 16)
    for path in pathlib.Path(directory).glob('sidecar/*.parquet'):
      known = parquet.read_table(path)
      count = known.num_rows
      rows = dict(
        key=known['key'],
        keep=np.arange(count) % 5 > 0,
        motion=(np.arange(count) * 7 % 11).astype(np.float32),
        span_start=known['first_time'].to_numpy() + 0.0,
        span_end=known['first_time'].to_numpy() + known['duration'].to_numpy(),
      )
      (path.parent / 'curate').mkdir(exist_ok=True)
      parquet.write_table(pa.table(rows), path.parent / 'curate' / path.name)
  index.index(directories, str(root / 'index'), quantiles=2, balance=table.Balance(alpha=0.5))
  return directories, str(root / 'index')


OPTIONS = {
  'plain': dict(),
  'index': dict(index=True),
  'phases': dict(
    phases=[dict(start=7, buckets=dict(f4=1, images=2), sources=dict(a=3, b=1))], index=True
  ),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_without_aspects_the_stream_is_as_it_was_before(pinned, name):
  directories, folder = pinned
  size = dict(height=32, width=32)
  config = dict(
    images=dict(media='image', frames=1, fps=1.0, batch_size=4, weight=1.0, **size),
    f4=dict(media='video', frames=4, fps=8.0, batch_size=4, weight=2.0, **size),
    f2=dict(media='video', frames=2, fps=4.0, batch_size=2, weight=0.5, **size),
  )
  found = buckets.from_config(dict(data=dict(buckets=config)))
  options = dict(OPTIONS[name])
  if options.pop('index', False):
    options['index'] = folder
  stream = open_stream(directories, found, **options)
  drawn = []
  for step in range(60):
    for example in stream.examples_at(step):
      example['shard'] = '/'.join(pathlib.Path(example['shard']).parts[-3:])
      example['times'] = [round(time, 5) for time in example['times']]
      drawn.append([stream.bucket_at(step).name, example])
  digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]
  assert (stream.fingerprint, digest) == BEFORE[name]
