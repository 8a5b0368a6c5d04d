"""Two real processes on this machine, over its loopback interface, as `launch local` has them."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from i2vgen_jax.process import exit_codes
from i2vgen_jax.stored import checkpoint
from tests import runs

ROOT = pathlib.Path(__file__).parents[3]


def launch(workdir, corpus, *flags, topology='2xcpu-1', data=2):
  """`launch local` on the tiny config; its own log and that of process 0 are on stderr."""
  return subprocess.Popen(
    [
      sys.executable, '-m', 'launch', 'local', f'--topology={topology}',
      f'--config=tests/tiny.py:{corpus}', f'--workdir={workdir}', f'--config.mesh.data={data}',
      f'--logs={workdir}/logs', '--go', *flags,
    ],
    cwd=ROOT, env=runs.environment(), stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


def wait_for(happened, process, log, what):
  deadline = time.monotonic() + 900
  while not happened():
    assert process.poll() is None, f'ended before {what}:\n{"".join(log)[-3000:]}'
    assert time.monotonic() < deadline, f'no {what}'
    time.sleep(0.005)


def pids(log_text):
  """Of the processes in the order of their start."""
  return [int(pid) for pid in re.findall(r'launch: process \d is pid (\d+)', log_text)]


def listening(pid):
  """Local addresses on which a process listens, in the hex of /proc/net/tcp."""
  links = (os.readlink(path) for path in pathlib.Path(f'/proc/{pid}/fd').iterdir())
  sockets = {link[8:-1] for link in links if link.startswith('socket:[')}
  lines = [line.split() for name in ('tcp', 'tcp6') for line in open(f'/proc/{pid}/net/{name}')]
  return {row[1].split(':')[0] for row in lines if row[3] == '0A' and row[9] in sockets}


def test_two_processes_survive_a_kill_and_give_the_losses_of_one(
  finished_run, demo_corpus, tmp_path
):
  process = launch(tmp_path, demo_corpus, '--config.checkpoint.every=1', '--max_restarts=1')
  first = []
  for line in process.stderr:  # Until the loop runs.
    first.append(line)
    if 'compiling 1 of' in line:
      break
  started = pids(''.join(first))
  addresses = set().union(*map(listening, started))
  loopback = {'0100007F', '0000000000000000FFFF00000100007F', '0' * 24 + '01000000'}
  assert addresses <= loopback
  saved = tmp_path / 'checkpoints' / '2' / 'commit_success.txt'
  wait_for(saved.exists, process, first, 'step 2')
  os.kill(started[1], signal.SIGKILL)
  log = ''.join(first) + process.communicate(timeout=900)[1]
  assert process.returncode == 0, log[-5000:]
  assert 'restart 1 of 1' in log and len(pids(log)) == 4
  assert re.search(r'Resuming at step [2-5] of 6', log)
  assert checkpoint.latest_step(tmp_path / 'checkpoints') == 6
  expected, found = runs.losses(finished_run), runs.losses(tmp_path)
  np.testing.assert_allclose(
    [found[step] for step in range(1, 7)], [expected[step] for step in range(1, 7)], rtol=1e-5
  )
  others = (tmp_path / 'logs' / 'process_1.log').read_text()
  assert 'process 1 of 2' in others and 'step 1/6' not in others  # The lead alone reports.


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_one_saved_step(demo_corpus, tmp_path):
  process = launch(
    tmp_path, demo_corpus, '--config.train.num_steps=100000', '--config.checkpoint.every=50000',
    '--max_restarts=0',
  )  # fmt: skip
  log = []
  for line in process.stderr:
    log.append(line)
    if re.search(r'step [1-9]\d*/', line):
      break
  os.kill(pids(''.join(log))[1], signal.SIGTERM)
  log.append(process.communicate(timeout=300)[1])
  assert process.returncode == exit_codes.PREEMPTED, ''.join(log)[-3000:]
  step = checkpoint.latest_step(tmp_path / 'checkpoints')
  stopped = f'Stopped by a signal at step {step}, saved'
  assert stopped in ''.join(log)
  assert stopped in (tmp_path / 'logs' / 'process_1.log').read_text()


def test_processes_that_start_with_other_configs_say_so_and_end(demo_corpus, tmp_path):
  """Two hosts by hand, as launch.local starts them, but with different seeds."""
  from i2vgen_jax.parallel import topology
  from launch import job, local

  started = []
  for index in range(2):
    if index == 0:
      address = f'127.0.0.1:{local.free_port()}'
    made = job.Job(
      'pod',
      topology.parse('2xcpu-1'),
      (
        f'--config=tests/tiny.py:{demo_corpus}', f'--workdir={tmp_path}/run',
        '--config.mesh.data=2', f'--config.seed={index}',
      ),
    )  # fmt: skip
    started.append(
      subprocess.Popen(
        [sys.executable, *made.command[1:]],
        cwd=ROOT,
        env=runs.environment() | local.environment_of(made, index, address),
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  for process in started:
    log = process.communicate(timeout=600)[1]
    assert process.returncode == exit_codes.USAGE, log[-3000:]
    assert 'The config of processes [1] differs from that of process 0' in log
  assert not (tmp_path / 'run' / 'config.json').exists()
