"""Ray on this machine: tasks, actors, workers that die, exceptions of the work."""

import sys

import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines.corpus import jobs
from data_pipelines.engines import choice, outcomes
from data_pipelines.engines import ray as ray_lib
from tests import corpora, shard_works


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
