"""Two real processes, of which one hangs, stops or is told to: how soon both end, and with what."""

import re
import signal
import subprocess
import sys
import time

import pytest

from i2vgen_jax.parallel import topology
from i2vgen_jax.process import exit_codes
from launch import job, local
from tests import runs

LIMIT = 20  # Of a step: several seconds where the machine is busy.
# `train`, of which process 1 does something before its third step, or before it compiles.
TRAIN = """
import ctypes, runpy, sys, time
import jax
from jax.experimental import multihost_utils
from i2vgen_jax.training import compilation, profiler
def hang():
  print('HANGS', flush=True, file=sys.stderr)
  {hang}
def start_at(self, step):
  if step == 2 and jax.process_index() == 1: hang()
def compile(self, *arguments):
  print('COMPILES', flush=True, file=sys.stderr)
  mutex = ctypes.create_string_buffer(64)
  for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)
if {compiles}: compilation.Steps.compile = compile
else: profiler.Profile.start_at = start_at
sys.argv[0] = 'train'
runpy.run_module('i2vgen_jax.train', run_name='__main__', alter_sys=True)
"""
HANGS = {
  'in Python': 'time.sleep(600)',
  'with the lock of Python': 'ctypes.PyDLL(None).sleep(600)',
  'in a collective': 'multihost_utils.sync_global_devices("alone")',
}


def start(corpus, workdir, *flags, hang='pass', compiles=False):
  """Two processes, as `launch local` starts them."""
  address = f'127.0.0.1:{local.free_port()}'
  started = []
  for index in range(2):
    made = job.Job(
      'pod', topology.parse('2xcpu-1'),
      (
        f'--config=tests/tiny.py:{corpus}', f'--workdir={workdir}', '--config.mesh.data=2',
        '--config.train.num_steps=1000', f'--config.watchdog.step_secs={LIMIT}', *flags,
      ),
    )  # fmt: skip
    code = TRAIN.format(hang=hang, compiles=compiles)
    started.append(
      subprocess.Popen(
        [sys.executable, '-c', code, *made.command[3:]],
        cwd=runs.ROOT,
        env=runs.environment() | local.environment_of(made, index, address),
        stderr=(workdir / f'{index}.log').open('wb'),
      )
    )
  return started


def wait_for(text, workdir, index):
  deadline = time.monotonic() + 900
  while not re.search(text, (workdir / f'{index}.log').read_text()):
    assert time.monotonic() < deadline, (workdir / f'{index}.log').read_text()[-3000:]
    time.sleep(0.05)
  return time.monotonic()


def ends(processes, workdir, began, secs):
  """Their exit codes; they end within so many seconds."""
  codes = [process.wait(600) for process in processes]
  took = time.monotonic() - began
  print(f'\n{codes} after {took:.1f} s')
  logs = [(workdir / f'{index}.log').read_text() for index in range(2)]
  assert took < secs, logs[0][-3000:] + logs[1][-3000:]
  return codes, logs


@pytest.mark.slow
@pytest.mark.parametrize('way', HANGS)
def test_a_process_that_hangs_ends_both_within_5_s_of_the_limit(way, demo_corpus, tmp_path):
  processes = start(demo_corpus, tmp_path, hang=HANGS[way])
  began = wait_for('HANGS', tmp_path, 1)
  codes, logs = ends(processes, tmp_path, began, LIMIT + 5)
  assert codes == [exit_codes.WATCHDOG] * 2
  for log in logs:
    assert 'Current thread' in log or 'Thread 0x' in log
  assert 'in hang' in logs[1] and 'in supervised' in logs[0]


@pytest.mark.slow
def test_a_process_that_is_stopped_ends_the_other(demo_corpus, tmp_path):
  processes = start(demo_corpus, tmp_path)
  wait_for('step 3/', tmp_path, 0)
  processes[1].send_signal(signal.SIGSTOP)
  began = time.monotonic()
  assert processes[0].wait(LIMIT + 30) == exit_codes.WATCHDOG
  print(f'\nafter {time.monotonic() - began:.1f} s')
  assert time.monotonic() - began < LIMIT + 5
  processes[1].send_signal(signal.SIGCONT)
  assert processes[1].wait(60) in (exit_codes.WATCHDOG, exit_codes.LOST_PEER, -signal.SIGABRT)


@pytest.mark.slow
@pytest.mark.parametrize('index', [0, 1])
def test_sigterm_to_one_that_compiles_ends_both_at_once(index, demo_corpus, tmp_path):
  processes = start(demo_corpus, tmp_path, compiles=True)
  for each in range(2):
    wait_for('COMPILES', tmp_path, each)
  began = time.monotonic()
  processes[index].send_signal(signal.SIGTERM)
  codes, logs = ends(processes, tmp_path, began, 10)
  assert codes == [exit_codes.PREEMPTED] * 2
  assert 'nothing to save' in logs[index]
