"""How far a command is: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

import tqdm

FIRST_SECS, EVERY_SECS = 3.0, 30.0  # What is over before the first shows nothing.
CLOCK = '%m-%d %H:%M:%S'  # Of plain lines, as of logs.
_T = TypeVar('_T')


def spell_secs(secs: float) -> str:
  """Seconds for people: 42 s, 3 min, 2.5 h, 1.2 d."""
  for unit, size, most in (('s', 1, 120), ('min', 60, 120 * 60), ('h', 3600, 48 * 3600)):
    if secs < most:
      return f'{secs / size:.{int(size == 3600)}f} {unit}'
  return f'{secs / 86400:.1f} d'


class Progress:
  """Counts units of work, as a context; several threads may do so.

  Args:
    total: units in all.
    unit: one of them, such as 'frame'; more are 'frames'.
    what: is done, such as 'sampling'.
    active: False shows nothing.
  """

  def __init__(self, total: int, unit: str, what: str = '', active: bool = True):
    self._total, self._unit, self._what = total, unit, what
    self._plain = active and not sys.stderr.isatty()
    self._bar = tqdm.tqdm(
      total=total, unit=unit, desc=what or None, delay=FIRST_SECS, dynamic_ncols=True,
      disable=self._plain or not active,
    )  # fmt: skip
    self._done, self._lock = 0, threading.Lock()
    self._started = self._told = time.monotonic()

  def update(self, number: int = 1) -> None:
    """Counts more units."""
    with self._lock:
      self._done += number
      self._bar.update(number)
      now = time.monotonic()
      wait = FIRST_SECS if self._told == self._started else EVERY_SECS
      if self._plain and now - self._told >= wait and self._done < self._total:
        self._told = now
        print(f'{time.strftime(CLOCK)} {self.line(now)}', file=sys.stderr, flush=True)

  def line(self, now: float) -> str:
    """What is done and what is left, by the mean speed.

    Args:
      now: seconds of the monotonic clock.
    """
    left = (now - self._started) / max(self._done, 1) * (self._total - self._done)
    start = f'{self._what}: ' if self._what else ''
    return f'{start}{self._done} of {self._total} {self._unit}s, {spell_secs(left)} left'

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()


def over(items: Iterable[_T], total: int, unit: str, what: str = '') -> Iterator[_T]:
  """The items, of which each is a unit that is done once the next is asked for.

  Args:
    items: to go through.
    total: as of `Progress`, like all others.
    unit: likewise.
    what: likewise.
  """
  with Progress(total, unit, what) as progress:
    for item in items:
      yield item
      progress.update()
