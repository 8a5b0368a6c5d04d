"""Conditional writes, on which leases rest: on a disk, on gs:// and on s3://, by real clients."""

import concurrent.futures
import threading

import pytest
from etils import epath
from google.api_core import exceptions

from data_pipelines.corpus import storage
from tests import emulators


@pytest.fixture(params=['disk', 'gs', 's3'])
def folder(request, tmp_path):
  if request.param == 'disk':
    yield epath.Path(tmp_path)
  elif request.param == 'gs':
    request.getfixturevalue('gs_bucket')
    yield epath.Path('gs://held/folder')
  else:
    with emulators.s3_bucket('held'):
      yield epath.Path('s3://held/folder')


def race(function, number=8):
  """What each of so many threads gets that call function(i) at the same moment."""
  barrier = threading.Barrier(number)

  def run(i):
    barrier.wait()
    return function(i)

  with concurrent.futures.ThreadPoolExecutor(number) as pool:
    return list(pool.map(run, range(number)))


def test_the_emulator_answers_412_to_a_write_whose_generation_is_old(gs_bucket):
  """Without this the tests below would say nothing of gs://."""
  blob = storage._gs_client().bucket('held').blob('once')
  for generation in (7, 0):
    blob.upload_from_string(b'x', if_generation_match=0) if generation == 0 else None
    with pytest.raises(exceptions.PreconditionFailed) as raised:
      blob.upload_from_string(b'y', if_generation_match=generation)
    assert raised.value.code == 412
  assert gs_bucket.cat_file('held/once') == b'x'


def test_of_many_who_create_a_file_one_is_told_so(folder):
  for turn in range(5):
    path = folder / f'lease{turn}'
    told = race(lambda i: storage.create_new(path, b'%d' % i))  # noqa: B023
    assert told.count(True) == 1
    assert storage.read_version(path)[0] == b'%d' % told.index(True)


def test_of_many_who_replace_a_version_one_does(folder):
  path = folder / 'lease'
  assert storage.read_version(path) is None
  assert storage.replace_if(path, b'too early', '1') is None
  assert storage.create_new(path, b'first')
  for turn in range(3):
    _, version = storage.read_version(path)
    told = race(lambda i: storage.replace_if(path, b'%d %d' % (turn, i), version))  # noqa: B023
    [winner] = [i for i, new in enumerate(told) if new]
    assert storage.read_version(path) == (b'%d %d' % (turn, winner), told[winner])
    again = storage.replace_if(path, b'again %d' % turn, told[winner])
    assert storage.replace_if(path, b'late', told[winner]) is None
    assert storage.read_version(path) == (b'again %d' % turn, again)
