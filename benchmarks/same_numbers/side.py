"""One tree's cases, run in parallel and each on one core, and their arrays kept on the disk."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.same_numbers import cases, collect

TIMEOUT = 3600  # Seconds of one command.
XLA_FLAGS = '--xla_backend_optimization_level=0'  # Compiling is most of the time.
LOG_LINES = 12  # Of a command that failed, that are shown.
DONE = 'done.json'
_READING = threading.Lock()


class Side:
  """Runs cases in a tree.

  Args:
    name: for people.
    tree: root of the source.
    place: where the cases write.
    results: folder of the arrays; what is there of the same commands is not run again.
    compiled: folder of JAX's compilation cache. Its keys are the programs: both sides share it.
    renamed: field of a config -> its name in this tree.
  """

  def __init__(
    self,
    name: str,
    tree: pathlib.Path,
    place: cases.Place,
    results: pathlib.Path,
    compiled: pathlib.Path,
    renamed: dict[str, str],
  ):
    self.name = name
    self._tree, self._place, self._results = tree, place, results
    self._compiled, self._renamed = compiled, renamed

  def run(self, names: Sequence[str]) -> dict[str, str]:
    """Runs cases, those first that others need.

    Returns:
      Case -> why it failed, for those that did.
    """
    failed = {}
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else [None, None]
    free = queue.SimpleQueue()
    for core in cores:
      free.put(core)
    waiting, running, done = list(names), {}, set()
    with concurrent.futures.ThreadPoolExecutor(len(cores)) as pool:
      while waiting or running:
        for name in list(waiting):
          needs = set(cases.CASES[name].needs)
          if needs & failed.keys():
            failed[name] = f'not run: it needs {", ".join(sorted(needs & failed.keys()))}'
            waiting.remove(name)
          elif needs <= done and len(running) < len(cores):
            running[pool.submit(self._run_on_a_core, name, free)] = name
            waiting.remove(name)
        finished, _ = concurrent.futures.wait(running, return_when='FIRST_COMPLETED')
        for future in finished:
          name = running.pop(future)
          error = future.result()
          failed |= {name: error} if error else {}
          done |= set() if error else {name}
    return failed

  def arrays(self, name: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(comparison, its arrays) of a case that was run."""
    for comparison in json.loads((self._results / name / DONE).read_text())['comparisons']:
      with np.load(self._results / name / f'{comparison}.npz') as stored:
        yield comparison, dict(stored)

  def _run_on_a_core(self, name, free):
    """'' or why it failed. One core: XLA's sums are then always in one order."""
    core = free.get()
    try:
      return self._run(name, core)
    finally:
      free.put(core)

  def _run(self, name, core):
    started = time.monotonic()
    folder, results = self._place.folder / name, self._results / name
    ran, key = folder / DONE, self._key(name)
    if not (ran.exists() and ran.read_text() == key):
      shutil.rmtree(results, ignore_errors=True)
      error = self._run_commands(name, folder, core)
      if error:
        return error
      ran.write_text(key)
    sources = pathlib.Path(collect.__file__).read_bytes()
    read_by = hashlib.sha256(key.encode() + sources).hexdigest()
    marker = results / DONE
    if marker.exists() and json.loads(marker.read_text())['key'] == read_by:
      print(f'{self.name}: {name} is there', flush=True)
      return ''
    try:
      with _READING:
        found = cases.CASES[name].read(folder)
    except (OSError, ValueError, KeyError) as error:
      return f'what it left cannot be read: {error!r}'
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    for comparison, arrays in found.items():
      np.savez(results / f'{comparison}.npz', **arrays)
    marker.write_text(json.dumps(dict(key=read_by, comparisons=list(found))))
    print(f'{self.name}: {name} ran, {time.monotonic() - started:.0f} s', flush=True)
    return ''

  def _run_commands(self, name, folder, core):
    """'' or what went wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, command in enumerate(self._commands(name)):
      log = folder / f'{number}.log'
      outcome = self._execute(command, log, cases.CASES[name].devices, core)
      if outcome:
        lines = log.read_text(errors='replace').splitlines()[-LOG_LINES:]
        return '\n  '.join([f'{outcome} of python {" ".join(command)}', *lines])
    return ''

  def _commands(self, name):
    commands = cases.CASES[name].commands(self._place, self._place.folder / name)
    for command in commands:
      for old, new in self._renamed.items():
        command = [part.replace(f'--config.{old}=', f'--config.{new}=') for part in command]
      yield list(command)

  def _execute(self, command, log, devices, core):
    """'' or what went wrong."""
    flags = f'{XLA_FLAGS} --xla_force_host_platform_device_count={devices}'
    variables = dict(
      os.environ,
      PYTHONPATH=str(self._tree),
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=flags,
      JAX_COMPILATION_CACHE_DIR=str(self._compiled),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
      OMP_NUM_THREADS='1',
    )
    try:
      with log.open('wb') as file, _pinned_to(core):
        done = subprocess.run(
          [sys.executable, *command],
          cwd=self._tree, env=variables, stdout=file, stderr=file, timeout=TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
      return f'no end after {TIMEOUT} s'
    return f'exit code {done.returncode}' if done.returncode else ''

  def _key(self, name):
    """Digest of all that makes what a case leaves, but for the tree and where it is."""
    case = cases.CASES[name]
    place = cases.Place(pathlib.Path('OWN'), pathlib.Path('REFERENCE'), pathlib.Path('PICTURE'))
    commands = [list(command) for command in case.commands(place, place.folder / name)]
    driver = ''
    if any(str(cases.DRIVER) in command for command in commands):
      driver = cases.DRIVER.read_text()
      commands = [[part for part in row if part != str(cases.DRIVER)] for row in commands]
    needs = [] if name == cases.CORPUS else [cases.CORPUS, *case.needs]
    described = [commands, case.devices, XLA_FLAGS, driver, [self._key(need) for need in needs]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _pinned_to(core):
  """Keeps this thread, and the processes that it starts, on one core; None: on any."""
  if core is None:
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {core})
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)
