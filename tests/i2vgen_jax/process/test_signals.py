"""Signals: whose they are while a run asks for them, and afterwards."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from i2vgen_jax.process import exit_codes, signals
from tests import runs

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def heard():
  """Signals that handlers from before a StopRequest have seen."""
  before = {number: signal.getsignal(number) for number in NUMBERS}
  heard = []
  for number in NUMBERS:
    signal.signal(number, lambda number, frame: heard.append(number))
  yield heard
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize('number', NUMBERS)
def test_a_stop_request_hears_a_signal_until_it_is_closed(number, heard):
  stop = signals.StopRequest()
  stop.hold()
  assert not stop.requested(0)
  os.kill(os.getpid(), number)
  assert stop.requested(1) and not heard
  stop.close()
  for each in NUMBERS:
    os.kill(os.getpid(), each)
  assert heard == list(NUMBERS)


@pytest.mark.parametrize('number', NUMBERS)
def test_the_first_signal_is_answered_at_once_by_a_thread(number, heard, capfd):
  stop = signals.StopRequest()
  stop.hold()
  said, until = '', time.monotonic() + 10
  for each in (number, signal.SIGTERM):
    os.kill(os.getpid(), each)
  while 'second Ctrl-C' not in said and time.monotonic() < until:
    time.sleep(0.05)
    said += capfd.readouterr().err
  stop.close()
  assert said.startswith(f'{number.name} received: finishing the step and saving; do not press')
  assert said.count('received') == 1


def test_a_second_interrupt_aborts_at_once(heard):
  stop = signals.StopRequest()
  stop.hold()
  os.kill(os.getpid(), signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGINT)
  stop.close()
  os.kill(os.getpid(), signal.SIGINT)
  assert heard == [signal.SIGINT]


def test_outside_the_main_thread_signals_stay_as_they_are(heard):
  """As in a notebook or a server that trains in the background."""
  found = []

  def work():
    stop = signals.StopRequest()
    found.append([signal.getsignal(number) for number in NUMBERS])
    found.append(stop.requested(0))
    stop.close()

  before = [signal.getsignal(number) for number in NUMBERS]
  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [before, False]
  assert [signal.getsignal(number) for number in NUMBERS] == before


def test_signals_are_given_back_when_what_ran_meanwhile_fails(heard):
  before = [signal.getsignal(number) for number in NUMBERS]
  with pytest.raises(ZeroDivisionError), signals.signals_to(signal.SIG_IGN, *NUMBERS):
    assert [signal.getsignal(number) for number in NUMBERS] == [signal.SIG_IGN] * 2
    _ = 1 / 0
  assert [signal.getsignal(number) for number in NUMBERS] == before


NOTHING_TO_SAVE = """
import ctypes, sys, time
from i2vgen_jax.process import signals
stop = signals.StopRequest()
try:
  print('starts', flush=True)
  {work}
finally:
  stop.close()
  print('in order')
"""
# A compilation, too, is C that no signal interrupts, and that lets other threads work.
LOCKED_TWICE = 'for _ in range(2): ctypes.CDLL(None).pthread_mutex_lock(mutex)'


@pytest.mark.parametrize('number', NUMBERS)
@pytest.mark.parametrize('in_c', [False, True])
def test_as_long_as_there_is_nothing_to_save_a_signal_ends_a_run_at_once(number, in_c):
  work = f'mutex = ctypes.create_string_buffer(64)\n  {LOCKED_TWICE}' if in_c else 'time.sleep(60)'
  process = subprocess.Popen(
    [sys.executable, '-c', NOTHING_TO_SAVE.format(work=work)],
    cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'starts\n'
  time.sleep(0.5)
  began = time.monotonic()
  process.send_signal(number)
  stdout, stderr = process.communicate(timeout=60)
  assert process.returncode == exit_codes.PREEMPTED, stderr
  assert time.monotonic() - began < signals.UNWIND_SECS + 2
  assert stderr == 'Stopped by a signal before the first step: nothing to save.\n'
  assert (stdout == 'in order\n') == (not in_c)


COMPILES_IN_A_THREAD = """
import atexit, concurrent.futures, time
from i2vgen_jax.process import signals
atexit.register(print, 'Python ends in order')
stop = signals.StopRequest()
try:
  with concurrent.futures.ThreadPoolExecutor() as pool:
    done = pool.submit(time.sleep, 60)
    print('starts', flush=True)
    done.result()
finally:
  stop.close()
"""


def test_a_second_signal_waits_for_no_compilation_either():
  """As `timeout` and schedulers send it: to the process and to its group. If Python ended in order,
  what compiles would ask for its lock, and abort."""
  process = subprocess.Popen(
    [sys.executable, '-c', COMPILES_IN_A_THREAD],
    cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'starts\n'
  for _ in range(2):
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
  stdout, stderr = process.communicate(timeout=20)
  assert process.returncode == exit_codes.PREEMPTED, stderr
  assert not stdout
  assert stderr == 'Stopped by a signal before the first step: nothing to save.\n'


def test_sigusr1_writes_the_stacks_of_all_threads_and_tells(capfd):
  told, wait = [], threading.Event()
  before = signal.getsignal(signal.SIGUSR1)

  def waits_in_a_thread():
    wait.wait()

  thread = threading.Thread(target=waits_in_a_thread)
  thread.start()
  with signals.stacks_at_usr1(lambda number, frame: told.append(number)):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert told == [signal.SIGUSR1]
    os.kill(os.getpid(), signal.SIGUSR1)
    assert told == [signal.SIGUSR1] * 2
  wait.set()
  thread.join()
  stacks = capfd.readouterr().err
  assert stacks.count('in waits_in_a_thread') == 2 and stacks.count('Current thread') == 2
  assert signal.getsignal(signal.SIGUSR1) == before


def test_handlers_that_are_c_code_are_put_back():
  """As JAX's, of SIGTERM, in a run of several processes."""
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
  code = ctypes.cast(libc.abs, ctypes.c_void_p).value
  before = libc.signal(signal.SIGUSR2, code)
  with signals.signals_to(lambda number, frame: None, signal.SIGUSR2):
    os.kill(os.getpid(), signal.SIGUSR2)
  assert libc.signal(signal.SIGUSR2, before) == code


AT_THE_END = """
import os, signal, sys, time
from i2vgen_jax.process import hosts, signals
hosts.join(leave_secs=15)
stop = signals.StopRequest()
stop.hold()
assert not stop.requested(1)
if sys.argv[1] == 'release':
  stop.release()
hosts.meet('the last step is taken')
if not hosts.is_lead():  # The other one ends meanwhile.
  time.sleep(1)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(3)  # JAX looks every second.
stop.close()
"""


@pytest.mark.slow
def test_a_signal_after_the_last_step_is_not_waited_for():
  """Else JAX itself aborts all processes, once leave_secs are over."""
  codes = {}
  for how in ('release', 'go on'):
    processes = runs.pod(AT_THE_END, how)
    logs = [process.communicate(timeout=120)[1] for process in processes]
    codes[how] = [process.returncode for process in processes]
    assert 'SIGTERM received' in logs[1]
  assert codes == {'release': [0, 0], 'go on': [-signal.SIGABRT] * 2}
