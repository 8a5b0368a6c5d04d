"""Small processes that hang in several ways: what they leave, with which code, and how soon."""

import pathlib
import re
import signal
import subprocess
import sys
import time
from concurrent import futures

import pytest

from i2vgen_jax.process import exit_codes, watchdog

ROOT = pathlib.Path(__file__).parents[3]
LIMIT = 2.0  # A busy machine takes a second more for what stays within it.
HANG = """
import ctypes, threading, time
from i2vgen_jax.process import watchdog
watched = watchdog.Watchdog(dict(step={limit}, input=100, compile=0))
def lock_twice(libc):
  mutex = ctypes.create_string_buffer(64)
  for _ in range(2): libc.pthread_mutex_lock(mutex)
def hang(): {hang}
watched.enter('compile')
time.sleep({limit} + 0.2)
with watched.within('input'):
  time.sleep({limit} + 0.2)
for _ in range(3):
  watched.enter('step')
  time.sleep({limit} / 2)
print(time.monotonic(), flush=True)  # The same clock for all processes.
watched.enter('step')
{call}
"""
WAYS = {
  'in Python': ('time.sleep(60)', 'hang()'),
  'in C': ('lock_twice(ctypes.CDLL(None))', 'hang()'),
  'in C that holds the lock of Python': ('lock_twice(ctypes.PyDLL(None))', 'hang()'),
  'in C that holds it and that a signal would wake': ('ctypes.PyDLL(None).sleep(60)', 'hang()'),
  'with another thread that holds it': (
    'ctypes.PyDLL(None).sleep(60)', 'threading.Thread(target=hang).start(); time.sleep(60)'
  ),
  'and ends too late': (f'time.sleep({LIMIT + 0.5})', 'hang(); watched.close(); time.sleep(60)'),
}  # fmt: skip


def start(code):
  return subprocess.Popen(
    [sys.executable, '-c', code],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


@pytest.fixture(scope='module')
def ended():
  """Way to hang -> (exit code, stderr, seconds from the limit to the end); all at the same time."""

  def run(way):
    hang, call = WAYS[way]
    process = start(HANG.format(limit=LIMIT, hang=hang, call=call))
    began = float(process.stdout.readline() or 'nan')  # Ended before it hung.
    stderr = process.communicate(timeout=60)[1]
    return process.returncode, stderr, time.monotonic() - began - LIMIT

  with futures.ThreadPoolExecutor(len(WAYS)) as pool:
    return dict(zip(WAYS, pool.map(run, WAYS), strict=True))


@pytest.mark.parametrize('way', WAYS)
def test_whatever_hangs_ends_with_its_stacks_and_170(way, ended):
  code, stderr, secs = ended[way]
  assert code == exit_codes.WATCHDOG, stderr
  assert 0 <= secs <= 5
  assert f'error: step took longer than watchdog.step_secs={LIMIT:g}' in stderr
  assert re.search(r'File "<string>", line 8 in hang', stderr)


def test_a_stopped_process_ends_when_it_goes_on():
  process = start(HANG.format(limit=LIMIT, hang='time.sleep(60)', call='hang()'))
  process.stdout.readline()
  process.send_signal(signal.SIGSTOP)
  time.sleep(LIMIT + watchdog.EXIT_SECS)
  process.send_signal(signal.SIGCONT)
  assert process.wait(5) == exit_codes.WATCHDOG
  process.communicate()


def test_what_ends_in_time_goes_on():
  code = (
    'import time\n'
    'from i2vgen_jax.process import watchdog\n'
    f'watched = watchdog.Watchdog(dict(step={LIMIT}))\n'
    'watched.enter("step")\n'
    'watched.close()\n'
    'watched = watchdog.Watchdog({})\n'
    'watched.enter("step")\n'
    f'time.sleep({LIMIT + watchdog.EXIT_SECS + 0.5})\n'
  )
  process = start(code)
  assert process.communicate()[1] == '' and process.returncode == 0


def test_entering_a_phase_takes_microseconds():
  """CPU time: of a step of half a second, the four changes are less than a thousandth."""
  watched = watchdog.Watchdog(dict(step=1000, input=1000))
  began = time.process_time()
  for _ in range(1000):
    watched.enter('step')
    watched.enter('input')
  took = (time.process_time() - began) / 2000
  watched.close()
  assert took < 1e-4
