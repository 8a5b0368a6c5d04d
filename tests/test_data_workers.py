"""Decoders crash and hang; the stream goes on with the same batches but for that one example."""

import os
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest

from data_pipelines import buckets, demo_corpus, ingest, loader, workers

VIDEO = buckets.Bucket('video', 8, 32, 32, fps=8, batch_size=4)


def tokenize(captions):
  return np.array([[zlib.crc32(caption.encode()) % 1000] for caption in captions])


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
  root = tmp_path_factory.mktemp('workers')
  demo_corpus.write(str(root / 'demo'), num_videos=12, num_validation=4, num_images=4)
  ingest.ingest(str(root / 'demo' / 'webvid'), str(root / 'videos'), num_processes=1)
  return str(root / 'videos')


@pytest.fixture
def open_stream(videos):
  streams = []

  def open_stream(**options):
    options = dict(max_bad_fraction=0.2) | options
    streams.append(loader.TrainStream(videos, [VIDEO], tokenize, 16, seed=0, **options))
    return streams[-1]

  yield open_stream
  for stream in streams:
    stream.close()


def assert_equal_batches(batch, expected):
  assert batch.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(batch[name], values, err_msg=name)


def test_batches_from_processes_equal_those_from_threads_and_stay_as_they_are(open_stream):
  plain, sandboxed = open_stream(sandbox=False), open_stream(num_threads=2)
  batches = sandboxed.iterate()
  kept = [next(batches)[1] for _ in range(8)]  # More than are decoded ahead.
  for step, batch in enumerate(kept):
    assert_equal_batches(batch, plain.batch_at(step))
  batches.close()


def test_memory_is_used_again_once_nobody_holds_it():
  memory = workers._Memory()
  first, array = memory.lease(1000)
  part = array[10:20].reshape(2, 5)
  del array
  assert memory.lease(1000)[0] is not first
  del part
  assert memory.lease(500)[0] is first


@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGSTOP], ids=['crash', 'hang'])
def test_one_lost_decoder_changes_no_batch(open_stream, how, monkeypatch):
  """The signal comes from outside, as the kernel's does when native code goes wrong."""
  plain, sandboxed = open_stream(sandbox=False), open_stream()
  sandboxed._decoder._timeout_secs = 3.0
  assert_equal_batches(sandboxed.batch_at(0), plain.batch_at(0))
  [pid] = sandboxed._decoder.pids()
  os.kill(pid, how)
  assert_equal_batches(sandboxed.batch_at(1), plain.batch_at(1))
  assert sandboxed._decoder.pids() != [pid] and len(sandboxed._decoder.pids()) == 1
  assert sandboxed.num_bad == 0 == sandboxed._decoder.num_lost


class Killer(threading.Thread):
  """Kills the first decoders that it sees, while they work."""

  def __init__(self, stream, count):
    super().__init__()
    self.stream = stream
    self.count = count
    self.killed = set()
    self.is_over = threading.Event()

  def run(self):
    while len(self.killed) < self.count and not self.is_over.wait(0.005):
      for pid in set(self.stream._decoder.pids()) - self.killed:
        os.kill(pid, signal.SIGSEGV)
        self.killed.add(pid)

  def __enter__(self):
    self.start()

  def __exit__(self, *_):
    self.is_over.set()
    self.join()


def test_a_file_that_kills_decoders_is_left_out_and_counted(open_stream, caplog):
  expected = open_stream(sandbox=False).batch_at(0)
  stream = open_stream()
  with Killer(stream, 2):
    batch = stream.batch_at(0)
  [(key, reason)] = stream.bad_examples.items()
  assert 'crash' in reason and 'signal 11' in reason
  assert caplog.text.count(f'{key} cannot be decoded') == 1
  assert stream._decoder.num_lost == len(stream._decoder.quarantine) == 1
  same = [np.array_equal(*pair) for pair in zip(batch['video'], expected['video'], strict=True)]
  assert same == [False, True, True, True]
  assert batch['video'].reshape(32, -1).std(axis=-1).min() > 1
  # From now on no decoder sees the file, and what replaces it is the same.
  assert_equal_batches(stream.batch_at(0), batch)
  for step in range(1, 7):
    stream.batch_at(step)
  assert stream._decoder.num_lost == 1 == stream.num_bad


def test_a_decoder_that_dies_again_and_again_ends_the_run(open_stream):
  stream = open_stream(max_bad_fraction=0.01)
  with Killer(stream, 10**9), pytest.raises(loader.DataError, match='crash'):
    for step in range(5):
      stream.batch_at(step)


def test_children_end_with_the_run(videos):
  """Also if the run is killed."""
  code = (
    'import sys, time, numpy as np\n'
    'from data_pipelines import loader\n'
    'from tests import test_data_workers as t\n'
    f'stream = loader.TrainStream({videos!r}, [t.VIDEO], t.tokenize, 16, seed=0)\n'
    'stream.batch_at(0)\n'
    'print(*stream._decoder.pids(), flush=True)\n'
    'time.sleep(600)\n'
  )
  run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
  [pid] = map(int, run.stdout.readline().split())
  os.kill(pid, 0)
  run.kill()
  run.wait()
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline:
    try:
      os.kill(pid, 0)
    except ProcessLookupError:
      return
    time.sleep(0.1)
  raise AssertionError('the child outlived its parent')
