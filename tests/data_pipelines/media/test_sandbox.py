"""Decoders crash and hang: that costs one example, and the stream goes on with the same batches."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from multiprocessing import connection

import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets
from data_pipelines.ingest import command as ingest
from data_pipelines.media import errors, sandbox, shared_memory
from data_pipelines.stream import decoder as decoder_lib
from data_pipelines.stream import fields, sandboxed_decoder
from data_pipelines.stream import stream as stream_lib
from tests.data_pipelines.media import deadly

VIDEO = buckets.Bucket('video', 8, 32, 32, fps=8, batch_size=4)


def tokenize(captions):
  return np.array([[zlib.crc32(caption.encode()) % 1000] for caption in captions])


FIELDS = fields.released(tokenize, 16)


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
    streams.append(stream_lib.TrainStream(videos, [VIDEO], FIELDS, seed=0, **options))
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
  memory = shared_memory.Memory()
  first, array = memory.lease(1000)
  part = array[10:20].reshape(2, 5)
  del array
  assert memory.lease(1000)[0] is not first
  del part
  assert memory.lease(500)[0] is first


def test_a_decoder_that_hangs_once_changes_no_batch(open_stream):
  plain, sandboxed = open_stream(sandbox=False), open_stream()
  sandboxed._decoder.sandbox.min_timeout_secs = 1.0
  assert_equal_batches(sandboxed.batch_at(0), plain.batch_at(0))
  [pid] = sandboxed._decoder.sandbox.pids()
  os.kill(pid, signal.SIGSTOP)
  assert_equal_batches(sandboxed.batch_at(1), plain.batch_at(1))
  assert sandboxed._decoder.sandbox.pids() != [pid] and len(sandboxed._decoder.sandbox.pids()) == 1
  assert sandboxed.num_bad == 0 == sandboxed._decoder.num_lost


@pytest.mark.parametrize('num_kills', [6, pytest.param(100, marks=pytest.mark.slow)])
def test_children_that_are_killed_at_random_change_no_batch(open_stream, num_kills):
  plain, stream = open_stream(sandbox=False), open_stream(num_threads=2)
  killed, rng, done = [], random.Random(0), threading.Event()

  def kill():
    while len(killed) < num_kills and not done.wait(rng.uniform(0.02, 0.25)):
      for pid in stream._decoder.sandbox.pids()[:1]:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

  killer = threading.Thread(target=kill, daemon=True)
  killer.start()
  batches = stream.iterate()
  step = 0
  while len(killed) < num_kills:
    assert_equal_batches(next(batches)[1], plain.batch_at(step))
    step += 1
  done.set()
  killer.join()
  batches.close()
  assert stream.num_bad == 0 == stream._decoder.num_lost


def files_seen(decoder):
  """A list to which a decoder of this process adds the SHA-256 of each file."""
  seen = []
  decoder._check = lambda data: seen.append(hashlib.sha256(data).hexdigest())
  return seen


def test_a_file_that_kills_decoders_is_left_out_and_counted(open_stream, caplog):
  plain = open_stream(sandbox=False)
  seen = files_seen(plain._decoder)
  expected = plain.batch_at(0)
  stream = open_stream()
  stream._decoder.sandbox.function = deadly.Deadly(stream._decoder.fields, seen[0])
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
  stream._decoder.sandbox.function = deadly.Deadly(stream._decoder.fields)
  with pytest.raises(stream_lib.DataError, match='crash'):
    for step in range(5):
      stream.batch_at(step)


def test_a_held_out_file_that_kills_decoders_is_left_out(videos, monkeypatch):
  plain, sandboxed = (make(fields.pixel_fields(FIELDS)) for make in (
    decoder_lib.Decoder, sandboxed_decoder.SandboxedDecoder
  ))  # fmt: skip
  seen = files_seen(plain)
  monkeypatch.setattr(sandboxed_decoder, 'make_decoder', lambda *_: plain)
  [*_, expected] = stream_lib.held_out(videos, VIDEO, FIELDS, 4, sandbox=False)['key']
  sandboxed.sandbox.function = deadly.Deadly(sandboxed.fields, seen[0])
  monkeypatch.setattr(sandboxed_decoder, 'make_decoder', lambda *_: sandboxed)
  batch = stream_lib.held_out(videos, VIDEO, FIELDS, num_examples=4)
  assert sandboxed.num_lost == 1 and len(batch['key']) == len(batch['video']) == 3
  assert batch['key'][-1] == expected
  assert sandboxed.sandbox.pids() == []


def test_children_end_with_the_run(videos):
  """Also if the run is killed."""
  code = (
    'import sys, time, numpy as np\n'
    'from data_pipelines.stream import stream as stream_lib\n'
    'from tests.data_pipelines.media import test_sandbox as t\n'
    f'stream = stream_lib.TrainStream({videos!r}, [t.VIDEO], t.FIELDS, seed=0)\n'
    'stream.batch_at(0)\n'
    'print(*stream._decoder.sandbox.pids(), flush=True)\n'
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


def test_a_child_that_keeps_too_much_memory_is_replaced_between_calls(monkeypatch):
  monkeypatch.setattr(sandbox, 'MAX_KEPT', 200 << 20)
  box = sandbox.Sandbox(deadly.hoard)
  first = box(1 << 20)
  assert box(300 << 20) == first  # Its result is not lost.
  assert box.pids() == []
  assert box(1 << 20) != first
  box.close()


def test_crashes_and_hangs_cost_one_example_each():
  box = sandbox.Sandbox(deadly.misbehave, min_timeout_secs=0.3)
  _, first = box(b'fine', 'a')
  assert first != os.getpid() and box(b'fine', 'a') == ('a', first)
  for data, reason in (
    (b'crash', 'crash: .*signal 11'),
    (b'hang', 'timeout'),
    (b'spin', 'timeout'),
    (b'bad', 'open: bad'),
    (b'greedy', 'memory: '),
  ):
    with pytest.raises(errors.DecodeError, match=reason):
      box(data)
  assert box(b'fine')[1]
  with pytest.raises(KeyError, match='ours'):
    box(b'bug')
  box.close()


def test_a_pipe_is_closed_once_and_by_who_holds_it(monkeypatch):
  """Its number is another file's the moment it is closed: closed again, that one is lost."""
  closes = []
  close = connection.Connection._close

  def slow_close(self):
    closes.append((id(self), threading.current_thread().name))
    time.sleep(0.2)  # Between taking the number and giving it up.
    close(self)

  box = sandbox.Sandbox(deadly.misbehave)
  box(b'fine')
  monkeypatch.setattr(connection.Connection, '_close', slow_close)
  errors = []

  def call():
    with pytest.raises(RuntimeError, match='closed while a call') as error:
      box(b'hang')
    errors.append(error)

  caller = threading.Thread(target=call, name='caller')
  caller.start()
  while box._idle.qsize():
    time.sleep(0.01)
  box.close()
  caller.join()
  assert len(errors) == 1
  assert [name for _, name in closes] == ['caller']
  box.open()
  assert box(b'fine', 'again')[0] == 'again'
  box.close()
  assert [name for _, name in closes] == ['caller', 'MainThread']
