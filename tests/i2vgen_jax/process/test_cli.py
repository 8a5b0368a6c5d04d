"""Signals: whose they are while a run asks for them, and afterwards."""

import os
import signal
import threading

import pytest

from i2vgen_jax.process import cli

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
  stop = cli.StopRequest()
  assert not stop.requested(0)
  os.kill(os.getpid(), number)
  assert stop.requested(1) and not heard
  stop.close()
  for each in NUMBERS:
    os.kill(os.getpid(), each)
  assert heard == list(NUMBERS)


def test_a_second_interrupt_aborts_at_once(heard):
  stop = cli.StopRequest()
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
    stop = cli.StopRequest()
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
  with pytest.raises(ZeroDivisionError), cli.signals_to(signal.SIG_IGN, *NUMBERS):
    assert [signal.getsignal(number) for number in NUMBERS] == [signal.SIG_IGN] * 2
    _ = 1 / 0
  assert [signal.getsignal(number) for number in NUMBERS] == before
