"""A pod on this machine: N processes of M CPU devices each, joined over the loopback interface.

What a cluster does with exit codes happens here too, by launch.supervise: a run that was preempted
or lost a process starts again from its last checkpoint, and one that failed for good does not.
"""

import functools
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from data_pipelines import children
from i2vgen_jax.process import exit_codes, hosts, signals
from launch import job as job_lib
from launch import supervise

LOOPBACK = '127.0.0.1'
# How long the other processes have to notice that one failed, before they are killed.
FAILURE_GRACE_SECS = 10


def run(job: job_lib.Job, logs: str | os.PathLike) -> int:
  """Runs a job to its end, with restarts; returns its exit code.

  Args:
    job: on a cpu topology.
    logs: folder for the output of all processes but the first, whose output is ours.

  Raises:
    ValueError: the topology is not of CPUs, or the job has what only clouds have.
  """
  _check(job)
  logs = pathlib.Path(logs)
  logs.mkdir(parents=True, exist_ok=True)
  _warn_of_open_sockets()
  stopping = []
  stop = lambda number, frame: stopping.append(number)  # noqa: E731
  with signals.signals_to(stop, signal.SIGTERM, signal.SIGINT):
    return supervise.repeat(
      lambda: _run_once(job, logs, stopping), job.workdir, job.max_restarts, stopping
    )


def _run_once(job: job_lib.Job, logs: pathlib.Path, stopping: list[int]) -> int:
  """One start of all processes, to the end of the last; returns the exit code of the run."""
  address = f'{LOOPBACK}:{free_port()}'
  processes = []
  follow = functools.partial(children.follow, os.getpid())
  for index in range(job.topology.hosts):
    environment = os.environ | job.environment | environment_of(job, index, address)
    with (logs / f'process_{index}.log').open('ab') as log:
      # In a session of its own, so that Ctrl-C reaches us alone; we then stop all.
      process = subprocess.Popen(
        [sys.executable, *job.command[1:]],
        env=environment,
        start_new_session=True,
        preexec_fn=follow,
        **(dict(stdout=log, stderr=log) if index else {}),
      )
    processes.append(process)
    print(f'launch: process {index} is pid {process.pid}', file=sys.stderr, flush=True)
  try:
    return _wait(processes, stopping)
  finally:
    for process in processes:
      if process.poll() is None:
        process.kill()
        process.wait()


def _wait(processes: Sequence[subprocess.Popen], stopping: list[int]) -> int:
  """Waits until all have ended, or one has failed and the others had time to end; returns the
  verdict of their codes."""
  told, deadline = False, None
  while True:
    codes = [process.poll() for process in processes]
    if stopping and not told:
      told = True
      for process in processes:
        if process.poll() is None:
          process.send_signal(signal.SIGTERM)
      deadline = time.monotonic() + job_lib.GRACE_SECS
    if None not in codes or (deadline and time.monotonic() > deadline):
      break
    if deadline is None and any(codes):
      preempted = exit_codes.PREEMPTED in codes
      deadline = time.monotonic() + (job_lib.GRACE_SECS if preempted else FAILURE_GRACE_SECS)
    time.sleep(0.1)
  ended = [supervise.shell_code(code) for code in codes if code is not None]
  return verdict(ended or [supervise.shell_code(-signal.SIGKILL)])  # What the caller does to them.


def verdict(codes: Sequence[int]) -> int:
  """Exit code of a run from those of its processes: a code that rules a restart out comes first,
  then other failures, then what follows from them, then preemption."""

  def weight(code: int) -> int:
    if code != exit_codes.DONE and not exit_codes.restarts(code):
      return 0
    return {exit_codes.LOST_PEER: 2, exit_codes.PREEMPTED: 3, exit_codes.DONE: 4}.get(code, 1)

  return min(codes, key=weight)


def environment_of(job: job_lib.Job, index: int, address: str) -> dict[str, str]:
  """Variables that tell a process which one of the run it is.

  Args:
    job: on a cpu topology.
    index: of the process, from 0.
    address: host:port of the coordinator.
  """
  flags = (os.environ | job.environment).get('XLA_FLAGS', '').split()
  flags = [flag for flag in flags if 'xla_force_host_platform_device_count' not in flag]
  return {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(job.topology.chips_per_host),
    'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
    'JAX_COORDINATOR_ADDRESS': address,
    'JAX_COORDINATOR_BIND_ADDRESS': address,
    hosts.NUM_PROCESSES: str(job.topology.hosts),
    hosts.PROCESS_ID: str(index),
    'XLA_FLAGS': ' '.join(flags),
  }


def free_port() -> int:
  """A port on which nobody listens."""
  with socket.socket() as listener:
    listener.bind((LOOPBACK, 0))
    return listener.getsockname()[1]


def _warn_of_open_sockets() -> None:
  """gloo listens on the address of the machine's name, and has no option to choose another."""
  try:
    address = socket.gethostbyname(socket.gethostname())
  except OSError:
    return
  if not address.startswith('127.'):
    print(
      f'launch: the processes exchange gradients over {address}, the address of this machine; let '
      'its name resolve to 127.0.0.1 to keep them on the loopback interface.',
      file=sys.stderr,
    )


def _check(job: job_lib.Job) -> None:
  job.require_kind('cpu')
  job.check_options('local')
  ours = environment_of(job, 0, '')
  for name in job.environment:
    if name in ours and name != 'XLA_FLAGS':
      raise ValueError(f'--env={name}: local sets it itself. Leave it out.')


def show(job: job_lib.Job) -> str:
  """What `run` does, as text; raises ValueError as `run`."""
  _check(job)
  lines = [f'# {job.topology.hosts} processes of {job.topology.chips_per_host} CPU devices:']
  for index in range(job.topology.hosts):
    variables = job.environment | environment_of(job, index, f'{LOOPBACK}:PORT')
    words = [f'{name}={shlex.quote(value)}' for name, value in variables.items()]
    lines.append(' '.join([*words, shlex.join(job.command)]))
  return '\n'.join(lines)
