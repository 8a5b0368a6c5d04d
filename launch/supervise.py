"""Starts a command again when its exit code asks for that: on one machine, under Slurm, on TPU VMs.

  python -m launch.supervise --workdir=DIR --max_restarts=10 -- python -m i2vgen_jax.train ...

A run is started again after the exit codes that exit_codes.restarts names, but at most max_restarts
times, and not if the last restart made no step: then the next one would not either. A step counts
once it is in the metrics or in a checkpoint of the workdir.
"""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from data_pipelines import children, user_errors
from i2vgen_jax.process import exit_codes, run_folder

# Before another start after one without a step: what it lacked may be on its way.
WAIT_SECS = 10.0


def repeat(
  run: Callable[[], int],
  workdir: str,
  max_restarts: int,
  stopping: Sequence[int],
  each_host: bool = False,
  wait_secs: float = WAIT_SECS,
) -> int:
  """Runs to the end, with restarts; returns the last exit code.

  Args:
    run: one start, to its end; returns the exit code, 128 + N for signal N.
    workdir: of the run.
    max_restarts: after failures, and preemptions before the first step; 0 allows none at all.
    stopping: once a signal's handler has put something in, nothing is started any more.
    each_host: `run` is one of several processes that each have a supervisor: a lost peer then is
      another one's failure, and does not count as a start without a step.
    wait_secs: before a restart after a start without a step.
  """
  restarts = failures = 0
  while True:
    before = run_folder.progress(workdir)
    code = run()
    if stopping or not exit_codes.restarts(code):
      return code
    after = run_folder.progress(workdir)
    stepped = before is None or after != before
    excused = code == exit_codes.PREEMPTED or (each_host and code == exit_codes.LOST_PEER)
    # A machine that is taken away says nothing of the run.
    preempted = code == exit_codes.PREEMPTED and stepped and max_restarts
    if failures >= max_restarts and not preempted:
      _say(f'ended with {code} after {failures} of {max_restarts} restarts')
      return code
    if restarts and not stepped and not excused:
      _say(f'ended with {code}, and the last restart made no step: another one would not either')
      return code
    restarts += 1
    failures += not preempted
    _say(f'ended with {code}; restart' + f' {failures} of {max_restarts}' * (not preempted))
    resume_at = time.monotonic() + (0.0 if stepped else wait_secs)
    while time.monotonic() < resume_at and not stopping:
      time.sleep(0.1)
    if stopping:
      return code


def _say(text: str) -> None:
  print(f'launch: {text}', file=sys.stderr, flush=True)


def shell_code(returncode: int) -> int:
  """A process's code as a shell gives it: 128 + N where Python says -N for signal N."""
  return returncode if returncode >= 0 else 128 - returncode


class Command:
  """A program that is run again and again, and gets the SIGTERM and SIGINT of this process.

  Args:
    words: the program and its arguments.

  Attributes:
    stopping: the signals that came.
  """

  def __init__(self, words: Sequence[str]):
    self._words = words
    self._process: subprocess.Popen | None = None
    self.stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._stop)

  def _stop(self, number: int, frame: Any) -> None:
    self.stopping.append(number)
    if self._process:
      self._process.send_signal(number)

  def run(self) -> int:
    """Runs to the end; returns the exit code. Raises ValueError if there is no such program."""
    try:
      # In a group of its own: a terminal's Ctrl-C would reach it twice.
      follow = functools.partial(children.follow, os.getpid())
      self._process = subprocess.Popen(self._words, process_group=0, preexec_fn=follow)
    except FileNotFoundError as error:
      raise ValueError(f'{self._words[0]} is not installed here.') from error
    if self.stopping:  # The signal came while it was started.
      self._process.send_signal(self.stopping[-1])
    return shell_code(self._process.wait())


def main(arguments: Sequence[str]) -> int:
  """Entry point; returns the exit code: that of the command, or 3 where no restart helps."""
  parser = user_errors.Parser(prog='python -m launch.supervise', description=__doc__)
  parser.add_argument('--workdir', required=True, help='of the run')
  parser.add_argument('--max_restarts', type=int, default=10, help='after failures')
  parser.add_argument('--each_host', action='store_true', help='every host runs this')
  parser.add_argument(
    '--requeue', action='store_true', help='Slurm: after a preemption ask for new machines'
  )
  parser.add_argument('command', nargs='+', metavar='COMMAND', help='what is run')
  options = parser.parse_args(arguments)
  command = Command(options.command)

  def run():
    code = command.run()
    if options.requeue and code == exit_codes.PREEMPTED and not command.stopping:
      subprocess.run(['scontrol', 'requeue', os.environ['SLURM_JOB_ID']], check=False)
      command.stopping.append(signal.SIGTERM)
    return code

  code = repeat(run, options.workdir, options.max_restarts, command.stopping, options.each_host)
  return exit_codes.FAILED if exit_codes.restarts(code) and not command.stopping else code


if __name__ == '__main__':
  user_errors.run(main)
