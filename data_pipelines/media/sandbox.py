"""Calls a function in child processes: a crash or hang of native code costs one call, not the run.

Decoders are a million lines of C fed with what the web holds. A segmentation fault would end the
run, a loop in a decoder stall it for ever, a header that lies take all memory; here each becomes a
DecodeError, if it happens in a fresh child too: once may be the machine's fault. The bounds: of
time TIMEOUT_SECS_PER_MB and what the caller says, of memory MAX_MEMORY; those of pixels, frames and
streams are in containers.py and frames.py.
"""

import contextlib
import gc
import os
import pathlib
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

import numpy as np

from data_pipelines import children
from data_pipelines.media import failures
from data_pipelines.media.errors import DecodeError

# Of the child's CPU time. A 360p video decodes at about 0.4 s/MB: ten times that is a hang.
MIN_TIMEOUT_SECS = 30.0
TIMEOUT_SECS_PER_MB = 5.0
WALL_FACTOR = 4.0  # On a busy machine a second of CPU time takes several; a deadlock takes none.
# Bytes that a child may take beyond what it has once its function is loaded, on Linux. An 8K video
# of 10 bits with 16 reference frames takes 1.8 GB.
MAX_MEMORY = 4 << 30
# Bytes beside shared ones with which a child is replaced once its call is done: decoders leak, and
# memory in pieces is not given back. A large video of the next call finds room within MAX_MEMORY.
MAX_KEPT = 1 << 30
START_SECS = 300.0  # Imports on a busy machine with a cold disk.
MAX_LOSSES = 2  # Of children by one call, until the call is to blame.
# Nor does native code end so: the kernel does it where memory is short, and people do.
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
MAX_OUTSIDE = 20  # Of children ended from outside in one call; each a second or two of imports.
# Memory that a decoder frees is kept for the next example: to get it from the system anew, page by
# page, was a fifth of the time of a JPEG (measured in a virtual machine).
_KEEP_MEMORY = {'MALLOC_MMAP_THRESHOLD_': str(32 << 20), 'MALLOC_TRIM_THRESHOLD_': str(512 << 20)}


class LostChildError(DecodeError):
  """A child died, hung or ran out of memory; `from_outside` if something else ended it."""

  from_outside = False


class Sandbox:
  """function(*arguments), in a child that is started when needed and replaced if it dies.

  For any number of threads: each has a child to itself while it calls. Picklable, as the function
  has to be; the children stay behind.

  Args:
    function: found again by its name, or an instance of such a class: it may keep state. A child
      calls its `prepare`, if it has one, first of all: what is slow and no call's fault.
    min_timeout_secs: what a call may take, and TIMEOUT_SECS_PER_MB for all bytes it is given.
    max_memory: bytes that a child may take beyond its modules; None for no bound.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    min_timeout_secs: float = MIN_TIMEOUT_SECS,
    max_memory: int | None = MAX_MEMORY,
  ):
    self.function = function
    self.min_timeout_secs = min_timeout_secs
    self.max_memory = max_memory
    self._idle: queue.LifoQueue[_Child] = queue.LifoQueue()
    self._children: set[_Child] = set()
    self._is_open = True
    self._lock = threading.Lock()

  def __call__(
    self, *arguments: Any, progress: np.ndarray | None = None, fresh: bool = False
  ) -> Any:
    """The function's result, in one child after the other until it is to blame for their loss.

    Args:
      progress: a number in shared memory; while the child changes it, its time begins anew.
      fresh: begin with a child that has not been called before.
    Raises:
      DecodeError: the function's own; 'memory' if MAX_MEMORY was not enough; 'crash' or 'timeout'
        if the child died or hung: MAX_LOSSES times, or MAX_OUTSIDE times by OUTSIDE_SIGNALS.
      RuntimeError: `close` was called, from another thread or before.
    """
    losses = {True: 0, False: 0}
    while True:
      try:
        return self.once(*arguments, progress=progress, fresh=fresh)
      except LostChildError as lost:
        losses[lost.from_outside] += 1
        if losses[False] == MAX_LOSSES or losses[True] == MAX_OUTSIDE:
          raise
      fresh = True

  def once(self, *arguments: Any, progress: np.ndarray | None = None, fresh: bool = False) -> Any:
    """As a call, but the first loss of a child is raised, as LostChildError.

    For calls with several files, of which a caller asks again for each that may be to blame.
    """
    num_bytes = sum(len(argument) for argument in arguments if isinstance(argument, bytes))
    timeout = self.min_timeout_secs + TIMEOUT_SECS_PER_MB * num_bytes / 1e6
    child = self._take(fresh)
    try:
      result, error = child.call(arguments, timeout, progress)
      if isinstance(error, LostChildError):
        raise error
    except LostChildError as lost:
      if not self._remove(child):
        raise RuntimeError('closed while a call was under way.') from lost
      raise
    except BaseException:  # Whatever the child still sends is nobody's.
      self._remove(child)
      raise
    if child.memory() > MAX_KEPT:
      self._remove(child)
    else:
      self._idle.put(child)
    if error is not None:
      raise error
    return result

  def open(self) -> None:
    """Lets children be started, also after `close`."""
    self._is_open = True

  def close(self) -> None:
    """Ends the children; calls under way fail."""
    with self._lock:
      self._is_open = False
      children, self._children = self._children, set()
    for child in children:
      child.kill()
    with contextlib.suppress(queue.Empty):
      while True:
        self._idle.get_nowait().close()

  def cpu_secs(self) -> float:
    """Processor time of the children that are alive, to a hundredth of a second."""
    with self._lock:
      return sum(child.cpu_secs() for child in self._children)

  def pids(self) -> list[int]:
    """Of the children that are alive."""
    with self._lock:
      return [child.process.pid for child in self._children]

  def _take(self, fresh: bool) -> '_Child':
    if not self._is_open:
      raise RuntimeError('the processes that decode were closed.')
    with contextlib.suppress(queue.Empty):
      while not fresh:
        child = self._idle.get_nowait()
        if child.is_alive():
          return child
        self._remove(child)
    child = self._start()
    with self._lock:
      self._children.add(child)
      is_open = self._is_open
    if not is_open:
      self._remove(child)
      raise RuntimeError('the processes that decode were closed.')
    return child

  def _start(self) -> '_Child':
    for _ in range(MAX_OUTSIDE - 1):
      with contextlib.suppress(LostChildError):
        return _Child(self.function, self.max_memory)
    return _Child(self.function, self.max_memory)

  def _remove(self, child: '_Child') -> bool:
    with self._lock:
      is_ours = child in self._children
      self._children.discard(child)
    child.close()
    return is_ours

  def __reduce__(self):
    return type(self), (self.function, self.min_timeout_secs, self.max_memory)


class _Child:
  """A process that runs `serve`.

  Any thread may kill it. The pipe is closed by the one that holds it: the number of a closed file
  is given to the next one opened, which another thread would then read from, or close.
  """

  def __init__(self, function: Callable[..., Any], max_memory: int | None):
    ours, theirs = socket.socketpair()
    code = (
      f'from data_pipelines import children; children.follow({os.getpid()}); '
      f'from data_pipelines.media import sandbox; sandbox.serve({theirs.fileno()}, {max_memory})'
    )
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # A session of its own: Ctrl-C is for the run, which then ends its children.
    self.process = children.start(
      [sys.executable, '-c', code],
      pass_fds=[theirs.fileno()],
      env=_KEEP_MEMORY | dict(os.environ, PYTHONPATH=path),
      start_new_session=True,
    )
    theirs.close()
    self._pipe = connection.Connection(ours.detach())
    try:
      self._pipe.send(function)
      if not self._pipe.poll(START_SECS):
        self.close()
        raise RuntimeError(f'the process that decodes did not start in {START_SECS:.0f} s.')
      self._pipe.recv()
    except (EOFError, OSError) as error:
      lost = self._lost()
      self.close()
      if lost.from_outside:
        raise lost from error
      raise RuntimeError(f'as it started, {lost.detail}') from error

  def is_alive(self) -> bool:
    return self.process.poll() is None

  def call(
    self, arguments: tuple[Any, ...], timeout: float, progress: np.ndarray | None
  ) -> tuple[Any, Exception | None]:
    """(result, error) of the function; raises LostChildError if the child is as good as dead."""
    try:
      self._pipe.send(arguments)
      self._wait(timeout, progress)
      return self._pipe.recv()
    except (EOFError, OSError) as error:
      raise self._lost() from error

  def kill(self) -> None:
    self.process.kill()
    self.process.wait()

  def close(self):
    self.kill()
    self._pipe.close()

  def cpu_secs(self):
    try:
      stat = pathlib.Path(f'/proc/{self.process.pid}/stat').read_text()
    except OSError:  # Not Linux, or gone: then the wall clock decides.
      return 0.0
    fields = stat.rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

  def memory(self):
    try:
      _, resident, shared, *_ = pathlib.Path(f'/proc/{self.process.pid}/statm').read_text().split()
    except (OSError, ValueError):  # As above; of a process that has ended the file is empty.
      return 0
    return (int(resident) - int(shared)) * os.sysconf('SC_PAGE_SIZE')

  def _wait(self, timeout: float, progress: np.ndarray | None) -> None:
    done, start, cpu_start = None, 0.0, 0.0
    while not self._pipe.poll(min(timeout, 1.0)):
      if done is None or (progress is not None and progress[0] != done):
        done = progress[0] if progress is not None else 0
        start, cpu_start = time.monotonic(), self.cpu_secs()
      elif (
        self.cpu_secs() - cpu_start > timeout or time.monotonic() - start > WALL_FACTOR * timeout
      ):
        raise LostChildError('timeout', f'no result in {timeout:.0f} s of the processor.')

  def _lost(self) -> LostChildError:
    try:
      code = self.process.wait(5)
    except subprocess.TimeoutExpired:
      return LostChildError('crash', 'the process closed its pipe.')
    ended = f'signal {-code}' if code < 0 else f'exit code {code}'
    lost = LostChildError('crash', f'the process ended with {ended}.')
    lost.from_outside = -code in OUTSIDE_SIGNALS
    return lost


def serve(file_descriptor: int, max_memory: int | None) -> None:
  """What a child does: calls the function it is given, until the parent is gone."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  pipe = connection.Connection(file_descriptor)
  try:
    function = pipe.recv()
    getattr(function, 'prepare', lambda: None)()
    gc.freeze()  # Modules stay: no collection need go through them.
    if max_memory is not None:
      _bound_memory(max_memory)
    pipe.send('ready')
    while True:
      arguments = pipe.recv()
      try:
        reply = (function(*arguments), None)
      except MemoryError as error:
        reply = (None, LostChildError('memory', str(error)))
      except Exception as error:  # Raised again where the caller can see it.
        reply = (None, failures.portable(error))
      pipe.send(reply)
  except (EOFError, ConnectionError):
    return


def _bound_memory(max_memory: int) -> None:
  """Of what is allocated: maps of files and of memory that is shared do not count."""
  try:
    status = pathlib.Path('/proc/self/status').read_text()
  except OSError:  # Not Linux: there the limit would count something else.
    return
  [kilobytes] = (line.split()[1] for line in status.splitlines() if line.startswith('VmData:'))
  limit = 1024 * int(kilobytes) + max_memory
  _, most = resource.getrlimit(resource.RLIMIT_DATA)
  if most == resource.RLIM_INFINITY or limit < most:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
