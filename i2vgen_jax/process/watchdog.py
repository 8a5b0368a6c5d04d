"""Ends a process that hangs, whatever hangs in it.

A thread of Python cannot: a call into C that holds the interpreter's lock stops all of them. So the
kernel counts the time, and what it then calls is C: one timer has the C library say which limit
has passed, one sends a signal at which faulthandler writes the stacks of all threads, and one calls
_exit. Setting the three anew takes some ten microseconds.
"""

import contextlib
import ctypes
import faulthandler
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any

from absl import logging

from i2vgen_jax.process import exit_codes

# After the limit: the other hosts that wait for this one write their stacks too before it is gone.
STACKS_SECS, EXIT_SECS = 0.1, 3.0
KINDS = ('start', 'compile', 'input', 'step', 'checkpoint', 'validation', 'barrier')
_CLOCK_MONOTONIC, _SIGEV_THREAD, _SIGEV_THREAD_ID = 1, 2, 4  # Of Linux's time.h and signal.h.


class _Event(ctypes.Structure):
  """struct sigevent of glibc: what happens when a timer expires."""

  _fields_ = (
    ('value', ctypes.c_void_p),
    ('signal', ctypes.c_int),
    ('notify', ctypes.c_int),
    ('function_or_thread', ctypes.c_void_p),
    ('padding', ctypes.c_char * 40),
  )


class _Times(ctypes.Structure):
  """struct itimerspec: an interval that stays 0, then seconds and nanoseconds from now."""

  _fields_ = tuple((name, ctypes.c_long) for name in ('_0', '_1', 'secs', 'nanosecs'))


class Watchdog:
  """Exits with WATCHDOG, and all threads' stacks on stderr, when a phase outlasts its limit.

  One at a time in a process. Where the C library has no timers (macOS), nothing is watched.

  Args:
    limits: seconds by kind of phase, one of KINDS; 0 is no limit.
    tell: called with a sentence once a limit has passed, in a thread, if Python still can.
    exit_secs: between the limit and the exit.
  """

  def __init__(
    self,
    limits: Mapping[str, float],
    tell: Callable[[str], None] = lambda _: None,
    exit_secs: float = EXIT_SECS,
  ):
    self._tell, self._exit_secs = tell, exit_secs
    self._kind, self._deadline = '', math.inf
    self._limits = {kind: secs for kind, secs in limits.items() if secs}
    self._timers: list[Any] = []
    self._closed = threading.Event()
    self._libc: Any = ctypes.CDLL(None)
    if self._limits and not hasattr(self._libc, 'timer_create'):
      logging.warning('Hangs are not noticed on this system: its C library has no timers.')
    elif self._limits:
      self._make_timers()

  def _make_timers(self) -> None:
    libc = self._libc
    libc.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.timer_delete.argtypes = [ctypes.c_void_p]
    number = signal.SIGRTMIN + 5  # Which no library of ours takes.
    faulthandler.register(number, file=2, all_threads=True)
    # A signal would end many a call that hangs: it is sent to a thread that only waits.
    waits = threading.Thread(target=self._wait, daemon=True)
    waits.start()
    self._text = ctypes.create_string_buffer(200)
    self._texts = {kind: _text(kind, secs) for kind, secs in self._limits.items()}
    self._times = {kind: _times(secs, self._exit_secs) for kind, secs in self._limits.items()}
    self._never = [ctypes.byref(_Times())] * 3
    self._timers = [
      self._timer(_Event(ctypes.addressof(self._text), 0, _SIGEV_THREAD, _address(libc.warnx))),
      self._timer(_Event(None, number, _SIGEV_THREAD_ID, waits.native_id)),
      self._timer(_Event(exit_codes.WATCHDOG, 0, _SIGEV_THREAD, _address(libc._exit))),
    ]

  def _wait(self) -> None:
    while not self._closed.wait(1.0):
      if time.monotonic() > self._deadline:
        self._tell(self._text.value.decode())
        self._closed.wait()  # The signal is still to come.

  def _timer(self, event: _Event) -> ctypes.c_void_p:
    timer = ctypes.c_void_p()
    if self._libc.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
      raise OSError('the system gives no more timers: raise `ulimit -i`.')
    return timer

  def enter(self, kind: str) -> None:
    """Begins a phase, and with it its time; the one before ends."""
    self._kind = kind
    now = time.monotonic()
    if not self._timers or now > self._deadline:  # Too late: the end is under way.
      return
    self._deadline = now + self._limits.get(kind, math.inf)
    self._text.value = self._texts.get(kind, b'')
    for timer, times in zip(self._timers, self._times.get(kind, self._never), strict=True):
      self._libc.timer_settime(timer, 0, times, None)

  @contextlib.contextmanager
  def within(self, kind: str) -> Generator[None, None, None]:
    """A phase within another one, whose time begins anew afterwards."""
    outer = self._kind
    self.enter(kind)
    try:
      yield
    finally:
      self.enter(outer)

  def close(self) -> None:
    """Watches no longer."""
    self.enter('')
    if time.monotonic() < self._deadline:
      for timer in self._timers:
        self._libc.timer_delete(timer)
      self._timers = []
      self._closed.set()


def _text(kind: str, secs: float) -> bytes:
  return (
    f'error: {kind} took longer than watchdog.{kind}_secs={secs:g}, so this ends with exit code '
    f'{exit_codes.WATCHDOG}. Stacks of all threads:'
  ).encode()


def _times(secs: float, exit_secs: float) -> list[Any]:
  ends = (secs, secs + STACKS_SECS, secs + exit_secs)
  return [ctypes.byref(_Times(0, 0, int(end), int(end % 1 * 1e9))) for end in ends]


def _address(function: Any) -> int | None:
  return ctypes.cast(function, ctypes.c_void_p).value
