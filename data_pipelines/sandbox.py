"""Calls a function on media in a child process: a crash or hang of native code costs one example.

Decoders are a million lines of C fed with what the web holds. A segmentation fault would end the
worker, and a loop in a decoder stall it for ever; here both become a DecodeError.
"""

import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

from data_pipelines import decode

# Of the child's CPU time. A 360p video decodes at about 0.4 s/MB: ten times that is a hang.
MIN_TIMEOUT_SECS = 30.0
TIMEOUT_SECS_PER_MB = 5.0
WALL_FACTOR = 10.0  # On a busy machine a second of CPU time takes many; a deadlock takes none.
START_SECS = 120.0  # Imports on a busy machine with a cold disk.


class Sandbox:
  """function(data, *arguments), in a child that is started when needed and replaced if it dies.

  Picklable while no child runs. Not for threads.
  """

  def __init__(self, function: Callable[..., Any], min_timeout_secs: float = MIN_TIMEOUT_SECS):
    self.function = function
    self.min_timeout_secs = min_timeout_secs
    self._child = None
    self._pipe = None

  def __call__(self, data: bytes, *arguments: Any) -> Any:
    """The function's result.

    Raises:
      decode.DecodeError: the function's own; 'crash' or 'timeout' if the child died or hung.
    """
    if self._child is None:
      self._start()
    try:
      self._pipe.send((data, arguments))
      timeout = self.min_timeout_secs + TIMEOUT_SECS_PER_MB * len(data) / 1e6
      if not self._answers_in(timeout):
        self.close()
        raise decode.DecodeError('timeout', f'no result in {timeout:.0f} s.')
      result, error = self._pipe.recv()
    except (EOFError, OSError) as broken:
      self._child.join(5)
      code = self._child.exitcode
      self.close()
      raise decode.DecodeError('crash', f'the decoder ended with exit code {code}.') from broken
    if isinstance(error, tuple):
      raise decode.DecodeError(*error)
    if error is not None:
      raise error
    return result

  def close(self) -> None:
    """Ends the child."""
    if self._child is not None:
      self._child.kill()
      self._child.join()
      self._pipe.close()
    self._child = self._pipe = None

  def _answers_in(self, timeout):
    start, cpu_start = time.monotonic(), self._cpu_seconds()
    while not self._pipe.poll(min(timeout, 1.0)):
      if self._cpu_seconds() - cpu_start > timeout:
        return False
      if time.monotonic() - start > WALL_FACTOR * timeout:
        return False
    return True

  def _cpu_seconds(self):
    try:
      fields = pathlib.Path(f'/proc/{self._child.pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:  # Not Linux, or gone: then the wall clock decides.
      return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')

  def _start(self):
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._child = context.Process(target=_serve, args=(theirs, self.function), daemon=True)
    self._child.start()
    theirs.close()
    if not self._pipe.poll(START_SECS):
      self.close()
      raise RuntimeError(f'the process that decodes did not start in {START_SECS:.0f} s.')
    self._pipe.recv()

  def __getstate__(self):
    return dict(self.__dict__, _child=None, _pipe=None)


def _serve(pipe, function):
  pipe.send('ready')
  while True:
    try:
      data, arguments = pipe.recv()
    except EOFError:  # The parent has closed it, or is gone.
      return
    try:
      reply = (function(data, *arguments), None)
    except decode.DecodeError as error:
      reply = (None, (error.reason, error.detail))
    except Exception as error:  # A fault of ours: raised where the caller can see it.
      reply = (None, error)
    pipe.send(reply)
