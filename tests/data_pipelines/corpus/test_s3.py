"""The commands and the stream on s3://, by the real client, against a server on this machine."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import lease
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib
from tests import emulators
from tests.data_pipelines.corpus import test_jobs, test_remote_records

pytestmark = pytest.mark.slow
COMMANDS = (
  'ingest --input={root}/demo/webvid --output={root}/videos --num_processes={processes}',
  'ingest --input={root}/demo/images --output={root}/images --num_processes=1',
  'curate --corpus={root}/videos --min_short_side=16 --min_duration=0.1 --num_processes=1',
  'index --corpus={root}/videos --corpus={root}/images --output={root}/index --quantiles=2',
  'report --corpus={root}/videos --corpus={root}/images --index={root}/index --output={root}/page',
  'verify --corpus={root}/videos --decode_fraction=1 --num_processes=1',
)
FLAT = ('manifest.json', 'dataset_info.json')  # Paths and times are in them.


@pytest.fixture(scope='module')
def bucket():
  """s3://held; for this process and its children."""
  with emulators.s3_bucket('held') as client:
    yield client


def run(root, processes):
  for command in COMMANDS:
    commands.main(command.format(root=root, processes=processes).split())


def tags_of(bucket):
  """Of all objects but leases."""
  found = bucket.find('held/root', detail=True)
  return {path: info['ETag'] for path, info in found.items() if lease.NAME not in path}


def test_all_commands_write_the_same_and_training_reads_the_same(bucket, tmp_path):
  here, there = tmp_path / 'here', 's3://held/root'
  demo_corpus.write(str(here / 'demo'), num_videos=12, num_validation=4, num_images=8)
  bucket.put(str(here / 'demo'), 'held/root/demo', recursive=True)
  run(here, processes=1)
  run(there, processes=2)
  bucket.get('held/root', str(tmp_path / 'got'), recursive=True)
  got, expected = test_jobs.contents(tmp_path / 'got'), test_jobs.contents(here)
  assert got.keys() == expected.keys() and len(got) > 40
  same = [name for name in got if pathlib.PurePath(name).name not in FLAT]
  assert [name for name in same if got[name] != expected[name]] == []

  streams = [
    test_remote_records.open_stream(
      {name: f'{root}/{name}' for name in ('videos', 'images')}, index=f'{root}/index'
    )
    for root in (here, there)
  ]
  assert streams[0].fingerprint == streams[1].fingerprint
  for step in range(4):
    local, remote = (stream.batch_at(step) for stream in streams)
    for name, values in local.items():
      np.testing.assert_array_equal(remote[name], values)
  for stream in streams:
    stream.close()
  assert streams[1].num_bad == 0
  tags = tags_of(bucket)
  run(there, processes=1)  # Nothing is left to do, and nothing is written that differs.
  assert tags_of(bucket) == tags
  bucket.pipe('held/root/videos/manifest.json', b'{"version": "0"}')
  with pytest.raises(ValueError, match='is of version 0'):
    stream_lib.TrainStream(
      f'{there}/videos', [test_remote_records.VIDEO], fields.released(len, 16), seed=0
    )


def test_what_others_write_is_seen(bucket):
  """Also where this process has looked before: a client's memory of listings is off."""
  folder = epath.Path('s3://held/parts')
  (folder / '00000/first').write_bytes(b'1')
  assert len(list(folder.glob('*/*'))) == 1 and not (folder / '00000/second').exists()
  code = "import epath; epath.Path('s3://held/parts/00000/second').write_bytes(b'2')"
  subprocess.run([sys.executable, '-c', f'from etils {code}'], check=True)
  assert (folder / '00000/second').exists() and len(list(folder.glob('*/*'))) == 2
