"""Decoding in child processes, into shared memory: a crash or hang costs one example, not the run.

One child per thread that makes batches. Requests and captions go through a socket, pixels straight
into the batch: its arrays lie in memory that both processes map, and that is used again once
nobody holds the arrays any more. No copy is made, and less memory is touched anew than without.
"""

import hashlib
import logging
import math
import mmap
import os
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import connection

import numpy as np

from data_pipelines import buckets as buckets_lib
from data_pipelines import corpus, decode, examples

TIMEOUT_SECS = 60.0  # For one example; a minute of 4K video decodes in 20 s.
START_SECS = 120.0  # Imports on a busy machine with a cold disk.
_ROOT = str(pathlib.Path(__file__).parent.parent)
_ALIGNMENT = 64
# Memory that a decoder frees is kept for the next example: to get it from the system anew, page by
# page, was a fifth of the time of a JPEG (measured in a virtual machine).
_KEEP_MEMORY = {'MALLOC_MMAP_THRESHOLD_': str(32 << 20), 'MALLOC_TRIM_THRESHOLD_': str(512 << 20)}


class Workers:
  """As examples.Decoder, in children that are started when needed and replaced if they die.

  Attributes:
    num_lost: examples at which a child crashed or hung, and the next one too.
    quarantine: SHA-256 of their files: no child decodes them again.
  """

  def __init__(self, timeout_secs: float = TIMEOUT_SECS):
    self.num_lost = 0
    self.quarantine: set[str] = set()
    self._timeout_secs = timeout_secs
    self._memory = _Memory()
    self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
    self._children: set[_Child] = set()
    self._is_open = True
    self._lock = threading.Lock()

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
    """As examples.empty, in memory that the children see."""
    layout, num_bytes = {}, _ALIGNMENT  # First, how many examples are done.
    for name, array in examples.empty(bucket, batch_size, clip_image_size, new=_shape).items():
      layout[name] = (num_bytes, array)
      num_bytes += -(-math.prod(array) // _ALIGNMENT) * _ALIGNMENT
    block, memory = self._memory.lease(num_bytes)
    return _Batch(block, memory, layout)

  def fill(
    self, batch: dict, requests: Mapping[int, examples.Request]
  ) -> Iterator[tuple[int, examples.Decoded]]:
    """As examples.Decoder.fill."""
    left = dict(requests)
    suspect = None
    while left:
      child = self._take()
      batch.progress[0] = 0
      try:
        child.send((batch.block.path, batch.layout, left, tuple(self.quarantine)))
        results = child.receive(self._timeout_secs, batch.progress)
      except (_Lost, OSError) as error:
        if not self._remove(child):
          raise  # Not the media's fault: `close` ended it.
        row, request = list(left.items())[min(batch.progress[0], len(left) - 1)]
        logging.warning('%s, record %d: %s', request.shard, request.record, error)
        if suspect == row:
          del left[row]
          yield row, self._lose(request, str(error))
        suspect = row  # Once may be the machine's fault, and must not change the batch.
      except BaseException:  # Whatever the child still sends is nobody's.
        self._remove(child)
        raise
      else:
        self._idle.put(child)
        yield from results
        return

  def open(self) -> None:
    """Lets children be started, also after `close`."""
    self._is_open = True

  def close(self) -> None:
    """Ends the children; a batch that is being made fails."""
    self._is_open = False
    with self._lock:
      children = list(self._children)
    for child in children:
      self._remove(child)

  def cpu_secs(self) -> float:
    """Of the children that are alive; they answer between batches."""
    with self._lock:
      return sum(child.cpu_secs() for child in self._children)

  def pids(self) -> list[int]:
    """Of the children that are alive."""
    with self._lock:
      return [child.process.pid for child in self._children]

  def _take(self):
    if not self._is_open:
      raise RuntimeError('the stream is closed.')
    try:
      while not (child := self._idle.get_nowait()).is_alive():
        self._remove(child)
    except queue.Empty:
      child = _Child()
      with self._lock:
        self._children.add(child)
    return child

  def _remove(self, child):
    with self._lock:
      is_ours = child in self._children
      self._children.discard(child)
    child.kill()
    return is_ours

  def _lose(self, request, reason):
    """Quarantines the media at which a child was lost."""
    self.num_lost += 1
    key = ''
    try:
      record = corpus.Records().read(request.shard, request.record)
      key = record['key']
      self.quarantine.add(hashlib.sha256(record['data']).hexdigest())
    except decode.DecodeError:
      logging.warning('%s, record %d: cannot be read either.', request.shard, request.record)
    return examples.Decoded(key, error=reason)


class _Lost(Exception):  # noqa: N818
  """The child is dead, or as good as."""


class _Batch(dict):
  """The arrays of a batch, and where a child finds them."""

  def __init__(self, block, memory, layout):
    super().__init__(
      (name, memory[start : start + math.prod(shape)].reshape(shape))
      for name, (start, shape) in layout.items()
    )
    self.block = block
    self.progress = memory[:8].view(np.int64)
    self.layout = layout


def _shape(shape, dtype):
  return shape


class _Child:
  """A process that runs `serve`."""

  def __init__(self):
    ours, theirs = socket.socketpair()
    code = f'from data_pipelines import workers; workers.serve({theirs.fileno()})'
    path = os.pathsep.join(filter(None, (_ROOT, os.environ.get('PYTHONPATH'))))
    # A session of its own: Ctrl-C is for the run, which then ends its children.
    self.process = subprocess.Popen(
      [sys.executable, '-c', code],
      pass_fds=[theirs.fileno()],
      env=_KEEP_MEMORY | dict(os.environ, PYTHONPATH=path),
      start_new_session=True,
    )
    theirs.close()
    self._pipe = connection.Connection(ours.detach())
    self._is_up = False

  def is_alive(self):
    return self.process.poll() is None

  def send(self, work):
    self._pipe.send(work)

  def receive(self, timeout_secs, progress):
    """The results; raises _Lost if there is neither one nor progress in time."""
    secs = timeout_secs if self._is_up else timeout_secs + START_SECS
    done = 0
    try:
      while not self._pipe.poll(secs):
        if progress[0] == done:
          raise _Lost(f'timeout: no frames in {secs:.0f} s.')
        done = progress[0]
      results = self._pipe.recv()
    except (EOFError, ConnectionError) as error:
      raise _Lost(f'crash: the decoder ended with {self._exit_code()}.') from error
    self._is_up = True
    return results

  def kill(self):
    self.process.kill()
    self.process.wait()
    self._pipe.close()

  def cpu_secs(self):
    fields = pathlib.Path(f'/proc/{self.process.pid}/stat').read_text().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

  def _exit_code(self):
    try:
      code = self.process.wait(5)
    except subprocess.TimeoutExpired:
      return 'a closed pipe'
    return f'signal {-code}' if code < 0 else f'exit code {code}'


class _Memory:
  """Blocks of shared memory; a block is free again when no array in it is alive."""

  def __init__(self):
    self._blocks: list[_Block] = []
    self._lock = threading.Lock()

  def lease(self, num_bytes):
    """(block, uint8 array of all of it): the block is taken as long as the array lives."""
    with self._lock:
      fits = [b for b in self._blocks if b.num_bytes >= num_bytes and b.is_free()]
      if not fits:
        fits = [_Block(num_bytes)]
        self._blocks += fits
      block = min(fits, key=lambda block: block.num_bytes)
      return block, block.memory[:]


class _Block:
  """Anonymous memory that another process opens by its path."""

  def __init__(self, num_bytes):
    self.num_bytes = num_bytes
    self._file = os.fdopen(os.memfd_create('batch'), 'r+b')
    self._file.truncate(num_bytes)
    self.path = f'/proc/{os.getpid()}/fd/{self._file.fileno()}'
    self.memory = np.frombuffer(mmap.mmap(self._file.fileno(), num_bytes), np.uint8)
    self._refcount = sys.getrefcount(self.memory)

  def is_free(self):
    # Every array in the block refers to `memory`, numpy sees to that, and so does who holds one.
    return sys.getrefcount(self.memory) == self._refcount


class _Quarantining(examples.Decoder):
  """Decodes, but for what is in quarantine."""

  quarantine: tuple[str, ...] = ()

  def check(self, data):
    # Hashing costs 1 % of decoding: only once there is something to look for.
    if self.quarantine and hashlib.sha256(data).hexdigest() in self.quarantine:
      raise decode.DecodeError('quarantine', 'a decoder crashed or hung on this file.')


def serve(file_descriptor: int) -> None:
  """What a child does: decodes what it is asked for, until the parent is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  pipe = connection.Connection(file_descriptor)
  decoder = _Quarantining()
  memory = {}
  try:
    while True:
      path, layout, requests, decoder.quarantine = pipe.recv()
      if path not in memory:
        with open(path, 'r+b') as file:
          memory[path] = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
      batch = {
        name: memory[path][start : start + math.prod(shape)].reshape(shape)
        for name, (start, shape) in layout.items()
      }
      progress = memory[path][:8].view(np.int64)
      results = []
      for found in decoder.fill(batch, requests):
        results.append(found)
        progress[0] += 1
      pipe.send(results)
  except (EOFError, ConnectionError):
    return
