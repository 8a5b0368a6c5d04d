"""Makes a fault happen in the process that this is: hooks around what a run comes through.

The code of the product knows nothing of it. A fault happens once in a run, however often that is
restarted: files in the run's folder say that it was to come (AIMED) and that it came (STRUCK).
"""

import contextlib
import ctypes
import functools
import os
import pathlib
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import jax
from etils import epath

from benchmarks.faults import draw, reads
from i2vgen_jax import session as session_lib
from i2vgen_jax.process import hosts, run_folder
from i2vgen_jax.stored import checkpoint
from i2vgen_jax.training import compilation, validation

AIMED, STRUCK = 'aimed', reads.STRUCK
# Of a process without space: more than its log has, less than its part of a checkpoint's arrays.
MAX_FILE_BYTES = 1 << 17
PLACES = {
  'start': (session_lib, 'build'),
  'compile': (compilation.Steps, 'compile'),
  'step': (compilation.Steps, '__call__'),
  'save': (checkpoint.Checkpoints, 'save'),
  'barrier': (hosts, 'meet'),
  'validation': (validation.Validation, 'run'),
}

# How somebody else strikes a process.
SIGNALS = {
  'kill': signal.SIGKILL,
  'flip': signal.SIGKILL,
  'nan': signal.SIGKILL,
  'stop': signal.SIGSTOP,
  'term': signal.SIGTERM,
}


def install(fault: draw.Fault, folder: pathlib.Path, host: int) -> None:
  """Hooks the fault in, if it is this host's and has not happened yet.

  Args:
    fault: of the run.
    folder: of the run, which all of its starts share.
    host: number of this process in the run.
  """
  if fault.kind == 'nan':
    _poison(draw.NAN_STEP)
  if host != fault.host or (folder / AIMED).exists():
    return
  if fault.kind == '503':
    reads.hook(folder)
  owner, name = PLACES[fault.moment]
  visits = 0

  @functools.wraps(getattr(owner, name))
  def hooked(*args: Any, **kwargs: Any) -> Any:
    nonlocal visits
    visits += 1
    if visits != fault.visit:
      return original(*args, **kwargs)
    with _happening(fault, folder):
      return original(*args, **kwargs)

  original = getattr(owner, name)
  setattr(owner, name, hooked)


@contextlib.contextmanager
def _happening(fault: draw.Fault, folder: pathlib.Path) -> Generator[None, None, None]:
  rng = random.Random(fault.seed)
  (folder / AIMED).touch()
  if fault.kind in SIGNALS:
    # By somebody else, at any moment while the process does what it does.
    def strike() -> None:
      (folder / STRUCK).touch()
      if fault.kind == 'flip':
        _flip(folder, rng)
      os.kill(os.getpid(), SIGNALS[fault.kind])

    timer = threading.Timer(fault.delay, strike)
    timer.daemon = True
    timer.start()
    if fault.moment == 'barrier':  # The others wait here, and nothing comes after it.
      timer.join()
    yield
    return
  if fault.kind == '503':
    # A moment, or until the start ends.
    (folder / reads.LEFT).write_text(str(rng.choice((1, 3, 1_000_000))))
    yield
    return
  (folder / STRUCK).touch()
  if fault.kind == 'stall':
    # In Python, or in C while no other thread of Python can run.
    rng.choice((time.sleep, ctypes.PyDLL(None).sleep))(100_000)
  elif fault.kind == 'crash':
    rng.choice((_raise, os.abort, _segfault))()
  elif fault.kind == 'enospc':
    with _no_space():
      yield


def _raise() -> None:
  raise RuntimeError('a bug, for a test')


def _segfault() -> None:
  ctypes.string_at(0)


def _flip(folder: pathlib.Path, rng: random.Random) -> None:
  """One bit of the newest step that is saved, unless that is the only one."""
  saved = run_folder.committed(epath.Path(folder / 'run/checkpoints'))
  if len(saved) < 2:
    return
  step = folder / 'run/checkpoints' / str(max(saved))
  files = [file for file in sorted(step.rglob('*')) if file.is_file() and file.stat().st_size]
  file = rng.choices(files, [path.stat().st_size for path in files])[0]
  data = bytearray(file.read_bytes())
  bit = rng.randrange(8 * len(data))
  data[bit // 8] ^= 1 << bit % 8
  file.write_bytes(data)


@contextlib.contextmanager
def _no_space() -> Generator[None, None, None]:
  """No file of this process grows beyond some bytes: the kernel says so to whoever writes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, hard))
  try:
    yield
    time.sleep(5)  # The save goes on in the background; it takes less, on a busy machine too.
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _poison(step: int) -> None:
  """The loss of a step is no number, whenever that step is taken."""
  original: Callable[..., Any] = compilation.Steps.__call__

  def call(self: compilation.Steps, bucket: str, state: Any, frozen: Any, batch: Any) -> Any:
    if int(state.step) == step:
      frozen = jax.tree.map(lambda leaf: leaf * float('nan'), frozen)
    return original(self, bucket, state, frozen, batch)

  compilation.Steps.__call__ = call
