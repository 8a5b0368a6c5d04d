"""SIGTERM (preemption) and SIGINT (Ctrl-C): whose they are while a run asks for them."""

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from i2vgen_jax.process import exit_codes, hosts

STOPS = (signal.SIGTERM, signal.SIGINT)
# How long a process that has nothing to save may take to end in order.
UNWIND_SECS = 3.0
_FINISHES = (
  '{} received: finishing the step and saving; do not press again, a second Ctrl-C aborts.'
)
_NOTHING_TO_SAVE = 'Stopped by a signal before the first step: nothing to save.'


@contextlib.contextmanager
def signals_to(handler: Callable, *numbers: int) -> Generator[None, None, None]:
  """Handles these signals so, and puts back at the end what was there before.

  Only the main thread of a process may handle signals: in another one they stay as they are.
  """
  before = {}
  try:
    if threading.current_thread() is threading.main_thread():
      for number in numbers:
        before[number] = _Action(number), signal.signal(number, handler)
    yield
  finally:
    for number, (action, earlier) in before.items():
      signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
      action.put_back()  # Of handlers that C code has set, Python knows nothing.


@contextlib.contextmanager
def stacks_at_usr1(handler: Callable) -> Generator[None, None, None]:
  """At SIGUSR1 C code writes the stacks of all threads to stderr, whatever they do; then, in the
  main thread, the handler is called."""
  handles = threading.current_thread() is threading.main_thread()
  with signals_to(handler, signal.SIGUSR1):
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=handles)
    try:
      yield
    finally:
      faulthandler.unregister(signal.SIGUSR1)


class _Action:
  """What a signal does, as the C library keeps it: JAX's handlers are C."""

  def __init__(self, number: int):
    self._number = number
    self._struct = ctypes.create_string_buffer(512)  # struct sigaction has about 150 bytes.
    ctypes.CDLL(None).sigaction(number, None, self._struct)

  def put_back(self) -> None:
    ctypes.CDLL(None).sigaction(self._number, self._struct, None)


class StopRequest:
  """Whether a SIGTERM or SIGINT asks the run to save and stop; the same on all hosts.

  At first there is nothing to save, and the signal ends the process at once with PREEMPTED, also in
  the middle of a compilation; a second one does not wait for the end in order. From `hold` on it
  waits for a step boundary, where `requested` tells it. A second SIGINT then aborts at once. After
  `release` the run only finishes what it saves, and SIGTERM changes nothing. `close` it at the end:
  the signals then do what they did before.
  """

  def __init__(self) -> None:
    self._asked, self._holds, self._released = False, False, False
    self._told = threading.Lock()  # Taken by who says that there is nothing to save.
    self._closed = threading.Event()
    self._stack = contextlib.ExitStack()
    if threading.current_thread() is not threading.main_thread():
      return
    self._of_jax = _Action(signal.SIGTERM)
    self._stack.enter_context(signals_to(self._hear, *STOPS))
    # Python's handlers wait until the main thread is back from C. What the system calls writes the
    # number of the signal to a file at once, where a thread waits for it.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    self._stack.callback(os.close, writer)
    self._stack.callback(signal.set_wakeup_fd, earlier)
    threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

  def hold(self) -> None:
    """From now on there is something to save."""
    self._holds = True

  def release(self) -> None:
    """From now on nobody asks: JAX, told of a SIGTERM then, would wait at its end for a step of
    the other processes, until all abort."""
    self._released = True

  def close(self) -> None:
    """Gives the signals back."""
    self._closed.set()
    self._stack.close()

  def requested(self, step: int) -> bool:
    """True from the first step boundary after the signal."""
    if jax.distributed.is_initialized():
      # JAX listens for SIGTERM itself, and the processes agree on a step.
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def _hear(self, number: int, frame: Any) -> None:
    """What Python calls in the main thread, between two of its instructions."""
    is_first, self._asked = not self._asked, True
    if not self._holds:
      # To end in order is to wait for the other processes, and for threads that compile.
      if jax.distributed.is_initialized() or not is_first:
        self._leave()
      self._tell()
      sys.exit(exit_codes.PREEMPTED)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if jax.distributed.is_initialized() and not self._released:
      self._of_jax.put_back()
      os.kill(os.getpid(), signal.SIGTERM)

  def _listen(self, reader: int) -> None:
    told = False
    with os.fdopen(reader, 'rb', buffering=0) as pipe:
      while numbers := pipe.read(16):
        stops = [number for number in numbers if number in STOPS]
        if not stops or self._closed.is_set():
          continue
        if not self._holds and not self._closed.wait(UNWIND_SECS) and not self._holds:
          self._leave()
        if self._holds and not told:  # The main thread may be in C until the step is done.
          told = True
          print(_FINISHES.format(signal.Signals(stops[0]).name), file=sys.stderr, flush=True)

  def _leave(self) -> NoReturn:
    self._tell()
    hosts.leave(exit_codes.PREEMPTED, _NOTHING_TO_SAVE)

  def _tell(self) -> None:
    if self._told.acquire(blocking=False):
      print(_NOTHING_TO_SAVE, file=sys.stderr, flush=True)
