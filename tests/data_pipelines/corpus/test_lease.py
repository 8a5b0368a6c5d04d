"""One holder of a folder, whoever asks, at whatever moment; on a disk and in a bucket."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures

import pytest
from etils import epath

from data_pipelines.corpus import lease, storage
from tests import runs

CHILD = """
import sys, time
from data_pipelines.corpus import lease
held = lease.Lease({folder!r}, print, 'works.')
print('holds', flush=True)
time.sleep(600)
"""


@pytest.fixture(params=['disk', 'gs'])
def folder(request, tmp_path, monkeypatch):
  monkeypatch.setattr(lease, 'RENEW_SECS', 0.2)
  monkeypatch.setattr(lease, 'STALE_SECS', 1.0)
  monkeypatch.setattr(lease, 'POLL_SECS', 0.1)
  if request.param == 'disk':
    return epath.Path(tmp_path)
  request.getfixturevalue('gs_bucket')
  return epath.Path('gs://held') / tmp_path.name


def elsewhere(folder, **changed):
  """A lease that was not released, of a process on another machine."""
  holder = lease.me() | dict(host='far', pid=7, machine='another') | changed
  storage.write_bytes(folder / 'lease.json', json.dumps(holder | dict(released=False)).encode())


def take(folder, lost=print):
  """True if it was to be had; then it is released."""
  try:
    lease.Lease(folder, lost, 'works there.').release()
  except ValueError as error:
    assert f'{folder} is in use: process' in str(error)
    return False
  return True


def test_a_second_process_is_refused_until_the_first_is_done(folder):
  held = lease.Lease(folder, print, 'works there.')
  refused = f'in use: process {os.getpid()} of '
  with pytest.raises(ValueError, match=refused):
    lease.Lease(folder, print, 'works there.')
  time.sleep(0.5)  # It is renewed, and still ours.
  assert not take(folder)
  held.release()
  assert take(folder)


def test_of_many_that_start_at_once_one_holds(folder):
  for _ in range(3):
    barrier = threading.Barrier(6)

    def start(_, barrier=barrier):
      barrier.wait()
      try:
        return lease.Lease(folder, print, 'works there.')
      except ValueError:
        return None

    with futures.ThreadPoolExecutor(6) as pool:
      [held] = filter(None, pool.map(start, range(6)))
    held.release()


def test_a_killed_process_of_this_machine_is_gone_at_once(tmp_path):
  child = subprocess.Popen(
    [sys.executable, '-c', CHILD.format(folder=str(tmp_path))],
    cwd=runs.ROOT, stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert child.stdout.readline() == 'holds\n'
  child.send_signal(signal.SIGSTOP)  # It may go on at any time.
  assert not take(tmp_path)
  child.kill()
  deadline = time.monotonic() + 10
  while lease._start_of(child.pid) and time.monotonic() < deadline:
    time.sleep(0.01)
  began = time.monotonic()
  assert take(tmp_path)  # Though nobody has waited for the child.
  assert time.monotonic() - began < 5 < lease.STALE_SECS
  child.communicate()


def test_a_number_that_another_process_has_now_is_not_the_holder(folder):
  elsewhere(folder, **lease.me() | dict(started='1'))
  assert take(folder)


def test_a_holder_elsewhere_is_gone_once_it_renews_no_longer(folder):
  elsewhere(folder)
  began = time.monotonic()
  assert take(folder)
  assert lease.STALE_SECS <= time.monotonic() - began


def test_a_holder_elsewhere_that_renews_is_not(folder):
  elsewhere(folder)
  timer = threading.Timer(0.5, elsewhere, [folder], dict(nonce='later'))
  timer.start()
  assert not take(folder)
  timer.join()


def test_a_run_hears_that_another_has_taken_over(folder):
  lost = []
  held = lease.Lease(folder, lost.append, 'works there.')
  elsewhere(folder)
  deadline = time.monotonic() + 10
  while not lost and time.monotonic() < deadline:
    time.sleep(0.05)
  assert 'another run has taken it over' in lost[0]
  held.release()
  assert json.loads((folder / 'lease.json').read_text())['host'] == 'far'


def test_storage_that_is_away_for_a_while_costs_nothing(folder, monkeypatch):
  lost, replace_if = [], storage.replace_if
  held = lease.Lease(folder, lost.append, 'works there.')

  def fails(path, data, version):
    raise OSError(28, 'No space left on device')

  def answers_late(path, data, version):
    return replace_if(path, data, version) and None

  for broken in (fails, answers_late):
    monkeypatch.setattr(storage, 'replace_if', broken)
    time.sleep(0.5)
  monkeypatch.setattr(storage, 'replace_if', replace_if)
  assert not take(folder) and not lost
  held.release()
  assert take(folder)


def test_a_damaged_lease_is_nobodys(folder):
  storage.write_bytes(folder / 'lease.json', b'{"pid": ')
  assert take(folder)
