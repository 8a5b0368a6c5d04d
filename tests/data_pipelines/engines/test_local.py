"""Processes of this machine: each takes the next shard; one that is lost costs that shard alone."""

import pytest
from etils import epath

from data_pipelines.corpus import jobs, retries
from data_pipelines.engines import choice, local, outcomes
from tests import shard_works


@pytest.fixture
def parts(tmp_path):
  with jobs.claimed(epath.Path(tmp_path / 'parts'), ''):
    yield epath.Path(tmp_path / 'parts')


def test_every_process_takes_shards_until_none_is_left(parts):
  results = jobs.run(shard_works.double, range(60), parts, num_processes=2)
  assert [result['double'] for result in results] == list(range(0, 120, 2))
  assert len({result['pid'] for result in results}) == 2


def test_the_shard_of_a_killed_process_is_done_again_and_no_other(parts, tmp_path):
  work = shard_works.KillsItself(tmp_path, item=3, times=2)
  assert [result['item'] for result in jobs.run(work, range(6), parts, 2)] == list(range(6))
  calls = sorted(path.name for path in tmp_path.glob('*-*'))
  assert calls == ['0-0', '1-0', '2-0', '3-0', '3-1', '3-2', '4-0', '5-0']


@pytest.mark.parametrize(
  ('work', 'kind', 'said'),
  [
    (shard_works.refuse, ValueError, '^/.* holds no ingested corpus'),
    (shard_works.lose_storage, retries.StorageError, '^no answer in 120 s'),
    (shard_works.fill_the_disk, retries.StorageError, 'No space left'),
    # A library's ValueError is a bug, whose traceback is of the worker.
    (shard_works.fail, outcomes.WorkerError, 'in fail\n.*cannot reshape'),
  ],
)
def test_an_exception_of_the_work_ends_the_job(parts, work, kind, said):
  with pytest.raises(kind, match=f'(?s){said}'):
    jobs.run(work, range(9), parts, 2)


def test_a_shard_that_ends_every_process_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr('data_pipelines.media.sandbox.MAX_OUTSIDE', 2)
  with jobs.claimed(parts := epath.Path(tmp_path / 'parts'), ''):
    with pytest.raises(outcomes.WorkerError, match='shard 1 ended .* with signal 9'):
      jobs.run(shard_works.KillsItself(tmp_path, item=1, times=99), range(3), parts, 2)


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (dict(name='local', beam_flags=['--runner=X']), 'no flags of Beam: leave out -- --runner=X'),
    (dict(name='beam', ray_address='auto'), 'need --engine=ray, not beam'),
    (dict(name=None, ray_resources='CPU=1'), 'need --engine=ray, not local'),
    (dict(name='ray', ray_resources='CPU=1,GPU'), "'GPU' is not"),
    (dict(name='ray', ray_resources='CPU=-1'), "'CPU=-1' is not"),
  ],
)
def test_flags_of_another_engine_and_wrong_ones_are_refused(flags, said):
  with pytest.raises(ValueError, match=said):
    choice.engine_of(**flags)


def test_flags_of_beam_alone_choose_beam():
  assert choice.engine_of(None) == local.Local()
  assert choice.engine_of(None, beam_flags=['--a']).flags == ('--a',)
