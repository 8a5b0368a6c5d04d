"""Child processes that are gone when their parent is, however it ended and whatever they do.

A child that waits for its parent's pipe to close does not see it while C code hangs. The kernel can
kill it, on Linux: when the thread ends that started it. So that thread has to last.
"""

import ctypes
import os
import signal
import subprocess
import threading
from concurrent import futures
from typing import Any

_LIBC: Any = ctypes.CDLL(None)  # Loaded here: what runs between fork and exec loads nothing.
_PR_SET_PDEATHSIG = 1


def start(command: list[str], **options: Any) -> subprocess.Popen:
  """subprocess.Popen, in a thread of its own that lasts as long as the child; from any thread."""
  started: futures.Future[subprocess.Popen] = futures.Future()

  def run() -> None:
    try:
      process = subprocess.Popen(command, **options)
    except BaseException as error:
      started.set_exception(error)
      return
    started.set_result(process)
    try:
      os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # Whoever wants its code gets it.
    except ChildProcessError:
      return

  threading.Thread(target=run, daemon=True, name=f'parent of {command[0]}').start()
  return started.result()


def follow(parent: int) -> None:
  """Called in a child: from now on it is killed when its parent ends, or at once if that is gone.

  Args:
    parent: process id, told by the parent.
  """
  if hasattr(_LIBC, 'prctl'):
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:
    os.kill(os.getpid(), signal.SIGKILL)
