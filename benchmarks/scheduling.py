"""Encoders that change how a process is scheduled."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
  """Schedules the thread as before when it ends: SVT-AV1 makes a superuser's thread real-time, and
  what that waits for on the same core would have a twentieth of it."""
  policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
  try:
    yield
  finally:
    os.sched_setscheduler(0, policy, param)
