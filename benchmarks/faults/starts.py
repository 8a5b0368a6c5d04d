"""Starts the processes of a run, each a fork of this one, which has imported everything."""

import atexit
import dataclasses
import gc
import os
import pathlib
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable

from benchmarks.faults import draw, inject
from data_pipelines import children
from i2vgen_jax.process import exit_codes, hosts
from launch import local, supervise

MARK = 'I2VGEN_JAX_FAULTS'  # In the environment of all children of a run's processes.
START_SECS = 900  # A start of all processes, to its end; the first one compiles.
GRACE_SECS = 120  # After one of them has ended; another may be compiling.
STOPPED_SECS = 5  # How long a process that was stopped stays so, if it is alone.


@dataclasses.dataclass
class Start:
  """One start of a run.

  Attributes:
    codes: exit code of each process; of one that a signal ended 128 + signal.
    secs: from the start to the end of the last.
    hung: processes that had to be killed.
  """

  codes: list[int]
  secs: float
  hung: int

  @property
  def code(self) -> int:
    """Of the run, as launchers see it."""
    return local.verdict(self.codes)


def start(
  command: list[str], fault: draw.Fault | None, folder: pathlib.Path, processes: int
) -> Start:
  """Starts a run and waits for its end.

  Args:
    command: name and flags of the training.
    fault: that happens, or None.
    folder: of the run; logs are added to its files process_<n>.log.
    processes: of the run.
  """
  began = time.monotonic()
  address = f'{local.LOOPBACK}:{local.free_port()}'
  pids = [_process(command, fault, folder, host, processes, address) for host in range(processes)]
  codes: dict[int, int] = {}
  hung, deadline = set(), began + START_SECS
  while len(codes) < processes:
    pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
    now = time.monotonic()
    if pid and os.WIFSTOPPED(status):
      if processes == 1:
        time.sleep(STOPPED_SECS)
        os.kill(pid, signal.SIGCONT)
    elif pid in pids:
      codes[pid] = supervise.shell_code(os.waitstatus_to_exitcode(status))
      deadline = min(deadline, now + GRACE_SECS)
    else:
      for left in set(pids) - set(codes):
        stopped = codes and _is_stopped(left)  # It cannot end by itself.
        if now > deadline and not stopped:
          hung.add(left)
        if now > deadline or stopped:
          os.kill(left, signal.SIGKILL)
      time.sleep(0.05)
  return Start([codes[pid] for pid in pids], time.monotonic() - began, len(hung))


def restarts(code: int) -> bool:
  """Whether the run is started again: by a launcher, or by the person who sees a bug."""
  return exit_codes.restarts(code) or code == exit_codes.BUG


def orphans(folder: pathlib.Path) -> list[int]:
  """Children of a run's processes that are alive, such as decoders."""
  mark = f'{MARK}={folder}'.encode()
  found = []
  for process in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      alive = mark in (process / 'environ').read_bytes().split(b'\0')
    except OSError:
      continue
    if alive:
      found.append(int(process.name))
  return found


def _is_stopped(pid: int) -> bool:
  return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] in 'Tt'


def in_fork(function: Callable[[], None], log: pathlib.Path) -> None:
  """Calls a function in a process of its own; raises RuntimeError if it fails there."""
  _, status = os.waitpid(_fork(function, log), 0)
  if status:
    raise RuntimeError(f'failed: see {log}')


def _process(
  command: list[str],
  fault: draw.Fault | None,
  folder: pathlib.Path,
  host: int,
  processes: int,
  address: str,
) -> int:
  """Forks one process of a run; returns its pid."""

  def run() -> None:
    os.environ[MARK] = str(folder)
    sys.argv = list(command)
    if processes > 1:
      os.environ |= {
        'JAX_COORDINATOR_ADDRESS': address,
        'JAX_COORDINATOR_BIND_ADDRESS': address,
        hosts.NUM_PROCESSES: str(processes),
        hosts.PROCESS_ID: str(host),
      }
      sys.argv.append('--distributed')
    if fault:
      inject.install(fault, folder, host)
    runpy.run_module('i2vgen_jax.train', run_name='__main__')

  return _fork(run, folder / f'process_{host}.log')


def _fork(function: Callable[[], None], log: pathlib.Path) -> int:
  sys.stdout.flush()
  gc.freeze()  # No collection in the child goes through what all have imported.
  parent = os.getpid()
  pid = os.fork()
  if pid:
    return pid
  code = 1
  try:
    children.follow(parent)
    with log.open('ab') as file:
      os.dup2(file.fileno(), 1)
      os.dup2(file.fileno(), 2)
    function()
    code = 0
  except SystemExit as end:
    code = end.code if isinstance(end.code, int) else 1
  except BaseException:
    traceback.print_exc()
  finally:
    atexit._run_exitfuncs()  # As an interpreter that ends would.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
