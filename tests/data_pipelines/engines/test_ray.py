"""Ray on this machine: tasks, actors, workers that die, exceptions of the work."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines.corpus import jobs
from data_pipelines.engines import choice, outcomes
from data_pipelines.engines import ray as ray_lib
from tests import corpora, shard_works
from tests.data_pipelines.corpus import test_jobs


def run(folder, work, count, num_actors=None, resources=''):
  """The results of `count` items."""
  engine = choice.engine_of('ray', ray_resources=resources, num_actors=num_actors)
  with jobs.claimed(parts := epath.Path(folder / 'parts'), ''):
    return jobs.run(work, range(count), parts, 2, engine)


def test_ray_does_what_processes_of_this_machine_do(tmp_path, monkeypatch):
  """In one test: to start Ray takes twenty seconds."""
  ray = pytest.importorskip('ray')
  monkeypatch.setattr(ray_lib, 'SPARE', 1)
  monkeypatch.setenv('RAY_worker_niceness', '0')  # Its workers starve on a busy machine.
  for name in ('tasks', 'actors', 'bad'):
    (tmp_path / name).mkdir()
  with ray_lib._connected(ray, '', 2):
    for name, num_actors in (('tasks', None), ('actors', 0)):
      work = shard_works.KillsItself(tmp_path / name, item=3, times=1)
      results = run(tmp_path / name, work, 12, num_actors)
      assert [result['item'] for result in results] == list(range(12))
      assert len({result['pid'] for result in results}) >= 2
      calls = {path.name for path in (tmp_path / name).glob('*-*')}
      assert calls == {f'{item}-0' for item in range(12)} | {'3-1'}
    with pytest.raises(outcomes.WorkerError, match='(?s)in fail\n.*cannot reshape'):
      run(tmp_path / 'bad', shard_works.fail, 9)
    with pytest.raises(ValueError, match='^/.* holds no ingested corpus'):
      run(tmp_path / 'bad', shard_works.refuse, 9)
    monkeypatch.setattr(ray_lib, 'MAX_LOSSES', 0)
    with pytest.raises(outcomes.WorkerError, match='workers were lost too often'):
      run(tmp_path / 'bad', shard_works.KillsItself(tmp_path / 'bad', item=0, times=1), 1)
    with pytest.raises(ValueError, match='this machine has not what --ray_resources=TPU=4 asks'):
      run(tmp_path / 'bad', shard_works.double, 1, resources='TPU=4')
  assert not ray.is_initialized()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  with corpora.ends_with_2(r'--engine=ray needs Ray: pip install "i2vgen_jax\[ray\]"'):
    corpora.write_folder(tmp_path / 'in', 2)
    commands.main(['ingest', f'--input={tmp_path}/in', f'--output={tmp_path}/out', '--engine=ray'])


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_cluster_that_was_started_here_ends_with_the_command(tmp_path, number):
  command = [sys.executable, '-c', test_jobs.HANG, str(tmp_path), 'ray']
  temporary = pathlib.Path(tempfile.mkdtemp(prefix='t-'))  # Names of sockets have to be short.
  process = subprocess.Popen(
    command, cwd=test_jobs.ROOT, start_new_session=True, stderr=subprocess.DEVNULL,
    env=dict(os.environ, RAY_worker_niceness='0', TMPDIR=str(temporary)),
  )  # fmt: skip
  deadline = time.monotonic() + 300
  while len(list(tmp_path.glob('partial-*'))) < 2:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  started = shard_works.below(process.pid)
  process.send_signal(number)
  process.wait(120)
  # After a kill Ray's two agents try for a minute or two to tell the head, which is gone too.
  deadline = time.monotonic() + 240
  while (alive := started & set(shard_works.parents())) and time.monotonic() < deadline:
    time.sleep(0.2)
  for pid in alive:
    os.kill(pid, signal.SIGKILL)
  left = [path.name for path in temporary.iterdir()]
  shutil.rmtree(temporary)
  assert len(started) >= 5 and not alive
  if number != signal.SIGKILL:
    assert not left
