"""Two real processes, of which one hangs, is stopped or is told to: how soon both end, and with
which codes. In short they exchange numbers; in the slow form they train."""

import signal
import subprocess
import sys
import time

import pytest

from i2vgen_jax import status
from i2vgen_jax.parallel import topology
from i2vgen_jax.process import exit_codes
from launch import job, local
from tests import runs

EXCHANGE = """
import ctypes, sys, time
import jax, numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from i2vgen_jax.process import cli, hosts, oversight, watchdog
def say(text): print(text, flush=True, file=sys.stderr)
def compile():
  mutex = ctypes.create_string_buffer(64)
  say('COMPILES')
  for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)
def hang():
  say('HANGS')
  {hang}
def loop():
  hosts.join()
  limits = dict.fromkeys([kind + '_secs' for kind in watchdog.KINDS], 100) | dict(step_secs={limit})
  with oversight.Oversight(limits) as overseen:
    multihost_utils.process_allgather(np.ones(3))  # Compiles.
    if {compiles}: compile()
    overseen.stop.hold()
    overseen.last_words = lambda sentence: say('LAST WORDS ' + sentence)
    for step in range(10**9):
      overseen.watchdog.enter('step')
      if step == 3: say('STEPS')
      if step == 3 and jax.process_index() == 1: hang()
      multihost_utils.process_allgather(np.ones(3))
      if overseen.stop.requested(step): return say(f'STOPS {{step}}')
try: loop()
except Exception as error: hosts.leave_pod(error)
"""
TRAIN = """
import ctypes, runpy, sys, time
import jax
from jax._src import distributed
from i2vgen_jax.training import compilation, profiler
def say(text): print(text, flush=True, file=sys.stderr)
def hang():
  say('HANGS')
  {hang}
def start_at(self, step):
  if step == 3: say('STEPS')
  if step == 3 and jax.process_index() == 1: hang()
inner = compilation.Steps.compile
def compile(self, *arguments):
  say('COMPILES')
  inner(self, *arguments)
  if jax.process_index() == 1: time.sleep({late})
compilation.Steps.compile = compile
profiler.Profile.start_at = start_at
sys.argv[0] = 'train'
def loop():
  runpy.run_module('i2vgen_jax.train', run_name='__main__', alter_sys=True)
loop()
"""
HANGS = {
  'in Python': 'time.sleep(600)',
  # Where the other one then hangs.
  'away from a collective': 'distributed.global_state.client.wait_at_barrier("alone", 600_000)',
}


def slow(value):
  return pytest.param(value, marks=pytest.mark.slow)


class Pair:
  """Two processes as `launch local` starts them, with their logs in a folder."""

  def __init__(self, folder, code, flags=(), limit=2, hang='pass', compiles=False, late=0):
    self._folder, self.limit = folder, limit
    address = f'127.0.0.1:{local.free_port()}'
    made = job.Job('pod', topology.parse('2xcpu-1'), ('--config=x', '--workdir=x'))
    code = code.format(hang=hang, compiles=compiles, limit=limit, late=late)
    self.processes = [
      subprocess.Popen(
        [sys.executable, '-c', code, *flags, f'--config.watchdog.step_secs={limit}'],
        cwd=runs.ROOT,
        env=runs.environment() | local.environment_of(made, index, address),
        stderr=(folder / f'{index}.log').open('wb'),
      )
      for index in range(2)
    ]

  def log(self, index):
    return (self._folder / f'{index}.log').read_text()

  def last_words(self):
    if (self._folder / 'run').exists():
      return status.read(str(self._folder / 'run'), time.time()).last_error
    return self.log(0).partition('LAST WORDS')[2]

  def wait_for(self, word, *indices):
    deadline = time.monotonic() + 900
    for index in indices:
      while word not in self.log(index):
        assert self.processes[index].poll() is None and time.monotonic() < deadline, self.log(index)
        time.sleep(0.02)

  def ends(self, secs, *indices):
    """Exit codes of these, or both, which end within so many seconds."""
    began = time.monotonic()
    codes = [self.processes[index].wait(600) for index in indices or (0, 1)]
    took = time.monotonic() - began
    print(f'\n{codes} after {took:.1f} s')
    assert took < secs, self.log(0)[-3000:] + self.log(1)[-3000:]
    return codes

  def close(self):
    for process in self.processes:
      process.kill()
      process.wait()


@pytest.fixture(params=['exchange', slow('train')])
def pair(request, tmp_path):
  """Makes a Pair of either kind."""
  made = []

  def make(**options):
    if request.param == 'exchange':
      made.append(Pair(tmp_path, EXCHANGE, **options))
    else:
      corpus = request.getfixturevalue('demo_corpus')
      flags = [
        f'--config=tests/tiny.py:{corpus}', f'--workdir={tmp_path}/run', '--distributed',
        '--config.mesh.data=2', '--config.train.num_steps=1000',
      ]  # fmt: skip
      made.append(Pair(tmp_path, TRAIN, flags, limit=20, **options))
    return made[0]

  yield make
  made[0].close()


@pytest.mark.parametrize('way', ['with the lock of Python', *map(slow, HANGS)])
def test_a_process_that_hangs_ends_both_within_5_s_of_the_limit(way, pair):
  both = pair(hang=HANGS.get(way, 'ctypes.PyDLL(None).sleep(600)'))
  both.wait_for('HANGS', 1)
  assert both.ends(both.limit + 5) == [exit_codes.WATCHDOG] * 2
  assert 'in hang' in both.log(1)
  assert f'step took longer than watchdog.step_secs={both.limit}' in both.last_words()
  for log in map(both.log, range(2)):
    assert 'most recent call first' in log and 'in loop' in log


@pytest.mark.slow
def test_a_process_that_is_stopped_ends_the_other(pair):
  both = pair()
  both.wait_for('STEPS', 0, 1)
  both.processes[1].send_signal(signal.SIGSTOP)
  assert both.ends(both.limit + 5, 0) == [exit_codes.WATCHDOG]
  both.processes[1].send_signal(signal.SIGCONT)
  assert both.ends(30, 1)[0] not in (exit_codes.DONE, *exit_codes.FINAL)


@pytest.mark.slow
def test_sigterm_in_the_loop_stops_both_at_one_step(pair):
  both = pair()
  both.wait_for('STEPS', 0, 1)
  both.processes[1].send_signal(signal.SIGTERM)
  codes = both.ends(60)
  stops = [line for index in range(2) for line in both.log(index).splitlines() if 'STOPS' in line]
  assert codes == [exit_codes.PREEMPTED] * 2 if not stops else stops[0] == stops[1]


@pytest.mark.parametrize('index', [0, slow(1)])
def test_sigterm_to_one_that_compiles_ends_both_at_once(index, pair):
  both = pair(compiles=True)
  both.wait_for('COMPILES', 0, 1)
  both.processes[index].send_signal(signal.SIGTERM)
  assert both.ends(8) == [exit_codes.PREEMPTED] * 2
  assert 'nothing to save' in both.log(index)


@pytest.mark.slow
@pytest.mark.parametrize('pair', ['train'], indirect=True)
def test_a_process_that_compiles_longer_is_waited_for(pair):
  both = pair(late=30)  # Longer than a step may take.
  both.wait_for('STEPS', 0, 1)
