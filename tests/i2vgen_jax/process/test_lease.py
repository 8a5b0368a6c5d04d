"""One trainer per workdir, whoever asks, at whatever moment; on a disk and in a bucket."""

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

from data_pipelines.corpus import storage
from i2vgen_jax.process import exit_codes, lease
from tests import runs

CHILD = """
import sys, time
from i2vgen_jax.process import lease
held = lease.Lease({folder!r}, print)
print('holds', flush=True)
time.sleep(600)
"""


@pytest.fixture(params=['disk', 'gs'])
def workdir(request, tmp_path, monkeypatch):
  monkeypatch.setattr(lease, 'RENEW_SECS', 0.2)
  monkeypatch.setattr(lease, 'STALE_SECS', 1.0)
  monkeypatch.setattr(lease, 'POLL_SECS', 0.1)
  if request.param == 'disk':
    return epath.Path(tmp_path)
  request.getfixturevalue('gs_bucket')
  return epath.Path('gs://held') / tmp_path.name


def elsewhere(workdir, **changed):
  """A lease that was not released, of a process on another machine."""
  holder = lease.me() | dict(host='far', pid=7, machine='another') | changed
  storage.write_bytes(workdir / 'lease.json', json.dumps(holder | dict(released=False)).encode())


def take(workdir, lost=print):
  """True if it was to be had; then it is released."""
  try:
    lease.Lease(workdir, lost).release()
  except ValueError as error:
    assert f'{workdir} is in use: process' in str(error)
    return False
  return True


def test_a_second_trainer_is_refused_until_the_first_is_done(workdir):
  held = lease.Lease(workdir, print)
  refused = f'in use: process {os.getpid()} of '
  with pytest.raises(ValueError, match=refused):
    lease.Lease(workdir, print)
  time.sleep(0.5)  # It is renewed, and still ours.
  assert not take(workdir)
  held.release()
  assert take(workdir)


def test_of_many_that_start_at_once_one_trains(workdir):
  for _ in range(3):
    barrier = threading.Barrier(6)

    def start(_, barrier=barrier):
      barrier.wait()
      try:
        return lease.Lease(workdir, print)
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


def test_a_number_that_another_process_has_now_is_not_the_holder(workdir):
  elsewhere(workdir, **lease.me() | dict(started='1'))
  assert take(workdir)


def test_a_holder_elsewhere_is_gone_once_it_renews_no_longer(workdir):
  elsewhere(workdir)
  began = time.monotonic()
  assert take(workdir)
  assert lease.STALE_SECS <= time.monotonic() - began


def test_a_holder_elsewhere_that_renews_is_not(workdir):
  elsewhere(workdir)
  timer = threading.Timer(0.5, elsewhere, [workdir], dict(nonce='later'))
  timer.start()
  assert not take(workdir)
  timer.join()


def test_a_run_hears_that_another_has_taken_over(workdir):
  lost = []
  held = lease.Lease(workdir, lost.append)
  elsewhere(workdir)
  deadline = time.monotonic() + 10
  while not lost and time.monotonic() < deadline:
    time.sleep(0.05)
  assert 'another run has taken over' in lost[0]
  held.release()
  assert json.loads((workdir / 'lease.json').read_text())['host'] == 'far'


def test_storage_that_is_away_for_a_while_costs_nothing(workdir, monkeypatch):
  lost, replace_if = [], storage.replace_if
  held = lease.Lease(workdir, lost.append)

  def fails(path, data, version):
    raise OSError(28, 'No space left on device')

  def answers_late(path, data, version):
    return replace_if(path, data, version) and None

  for broken in (fails, answers_late):
    monkeypatch.setattr(storage, 'replace_if', broken)
    time.sleep(0.5)
  monkeypatch.setattr(storage, 'replace_if', replace_if)
  assert not take(workdir) and not lost
  held.release()
  assert take(workdir)


def test_a_damaged_lease_is_nobodys(workdir):
  storage.write_bytes(workdir / 'lease.json', b'{"pid": ')
  assert take(workdir)


def test_the_second_trainer_ends_with_one_line_before_it_writes(finished_run, demo_corpus):
  held = lease.Lease(finished_run, print)
  before = {path: path.stat().st_mtime_ns for path in finished_run.rglob('*') if path.is_file()}
  done = runs.module(
    'i2vgen_jax.train', f'--config=tests/tiny.py:{demo_corpus}', f'--workdir={finished_run}'
  )
  assert done.returncode == exit_codes.USAGE, done.stderr[-3000:]
  assert done.stderr.splitlines()[-1].startswith(f'error: {finished_run} is in use: process')
  after = {path: path.stat().st_mtime_ns for path in finished_run.rglob('*') if path.is_file()}
  changed = {path.name for path in after if before.get(path) != after[path]}
  assert changed <= {'lease.json', '.lease.json.lock'}  # Renewed meanwhile.
  held.release()
