"""Trees and parameters saved and loaded; mismatches named."""

import collections
import os
import resource
import shutil
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from absl import logging as absl_logging

from i2vgen_jax.process import errors, exit_codes
from i2vgen_jax.stored import checkpoint, run_config, trained, trees

TREE = {'block': {'kernel': jnp.arange(6.0).reshape(2, 3), 'bias': jnp.ones((3,))}}


def abstract(tree):
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def test_a_tree_comes_back_from_a_relative_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  trees.save_tree('here', TREE)
  loaded = trees.load_tree('here', abstract(TREE), fix='')
  np.testing.assert_array_equal(loaded['block']['kernel'], TREE['block']['kernel'])


def test_every_mismatch_is_named_with_its_shapes(tmp_path):
  trees.save_tree(tmp_path / 'tree', TREE)
  wanted = {'block': {'kernel': jnp.ones((2, 4)), 'scale': jnp.ones((3,))}}
  with pytest.raises(ValueError) as raised:
    trees.load_tree(tmp_path / 'tree', abstract(wanted), fix='')
  message = str(raised.value)
  assert 'missing block/scale' in message and 'unexpected block/bias' in message
  assert 'block/kernel: float32[2, 3] where the config makes float32[2, 4]' in message


def test_another_dtype_is_a_mismatch(tmp_path):
  trees.save_tree(tmp_path / 'tree', TREE)
  wanted = jax.tree.map(lambda x: x.astype(jnp.bfloat16), TREE)
  with pytest.raises(ValueError, match='where the config makes bfloat16'):
    trees.load_tree(tmp_path / 'tree', abstract(wanted), fix='')


def test_old_steps_go_and_multiples_stay(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, every=1, keep_last=2, keep_every=4)
  for step in range(1, 8):
    checkpoints.save(step, TREE, {'step': step})
  checkpoints.close()
  kept = {int(path.name) for path in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {4, 6, 7}


def test_a_step_without_its_commit_does_not_count(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, every=1, keep_last=5, keep_every=0)
  for step in (1, 2):
    checkpoints.save(step, TREE, {'step': step})
  checkpoints.close()
  os.mkdir(tmp_path / 'checkpoints' / '3')
  assert checkpoint.latest_step(tmp_path / 'checkpoints') == 2


def test_the_data_position_comes_back_with_the_state(tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, every=1, keep_last=5, keep_every=0)
  checkpoints.save(1, TREE, {'step': 1, 'fingerprint': 'abc'})
  checkpoints.close()
  again = checkpoint.Checkpoints(tmp_path, every=1, keep_last=5, keep_every=0)
  state, position = again.restore(1, abstract(TREE))
  assert position == {'step': 1, 'fingerprint': 'abc'}
  np.testing.assert_array_equal(state['block']['kernel'], TREE['block']['kernel'])


def make(workdir, **more):
  return checkpoint.Checkpoints(workdir, **dict(every=1, keep_last=3, keep_every=0) | more)


def save(workdir, *steps):
  checkpoints = make(workdir)
  for step in steps:
    checkpoints.save(step, TREE, {'step': step})
  checkpoints.close()


def test_the_newest_step_that_is_whole_is_restored_and_the_next_saves_go_over_the_damaged(tmp_path):
  save(tmp_path, 1, 2, 3)
  (tmp_path / 'checkpoints/3/state/_METADATA').write_text('{')
  checkpoints = make(tmp_path)
  with pytest.raises(trees.DamagedError, match='checkpoints/3 is damaged'):
    checkpoints.restore(3, abstract(TREE))
  step, state, position = checkpoints.restore_newest(abstract(TREE))
  assert (step, position) == (2, {'step': 2})
  np.testing.assert_array_equal(state['block']['kernel'], TREE['block']['kernel'])
  assert checkpoints.latest_step == 2
  assert (next((tmp_path / 'damaged_checkpoints').glob('3_*/')) / 'state').exists()
  checkpoints.save(3, TREE, {'step': 3})
  checkpoints.check_saved(3)
  checkpoints.close()


@pytest.mark.parametrize(
  ('words', 'raised'),
  [
    ("UNKNOWN: Error reading: Input/output error [os_error_code='5']", 'Input/output'),
    ("UNKNOWN: Error reading: Stale file handle [os_error_code='116']", 'Stale'),
    ("FAILED_PRECONDITION: Failed to open: Not a directory [os_error_code='20']", None),
  ],
)
def test_a_disk_that_fails_to_answer_is_no_damage(words, raised, tmp_path, monkeypatch):
  trees.save_tree(tmp_path / 'tree', TREE)

  def fails(self, abstract):
    raise ValueError(words)

  monkeypatch.setattr(trees.Stored, '_read', fails)
  with pytest.raises(ValueError, match=raised or 'is damaged') as error:
    trees.load_tree(tmp_path / 'tree', abstract(TREE), fix='')
  assert (errors.classify(error.value)[0] == exit_codes.STORAGE) == (raised is not None)


def test_if_every_step_is_damaged_all_are_named_and_stay(tmp_path):
  save(tmp_path, 1, 2)
  for step in (1, 2):
    (tmp_path / f'checkpoints/{step}/_CHECKPOINT_METADATA').write_text('{}')
  for _ in range(2):  # A second start does not begin from scratch either.
    checkpoints = make(tmp_path)
    with pytest.raises(
      trees.DamagedError, match=r'(?s)No step in .*checkpoints/2 .*checkpoints/1 '
    ):
      checkpoints.restore_newest(abstract(TREE))
    checkpoints.close()


def test_another_model_is_no_damage(tmp_path):
  save(tmp_path, 1, 2)
  checkpoints = make(tmp_path)
  wanted = {'block': TREE['block'] | {'bias': jnp.ones((4,))}}
  with pytest.raises(ValueError, match='where the config makes') as raised:
    checkpoints.restore_newest(abstract(wanted))
  assert not isinstance(raised.value, trees.DamagedError)
  assert checkpoints.latest_step == 2
  checkpoints.close()


def test_a_field_that_an_earlier_version_lacked_starts_anew(tmp_path, caplog):
  save(tmp_path, 1)
  absl_logging.get_absl_logger().propagate = True
  given = {'guard': {'count': np.int32(7)}}
  checkpoints = make(tmp_path)
  _, state, _ = checkpoints.restore_newest(
    abstract({**TREE, 'guard': {'count': jnp.int32(0)}}), given
  )
  checkpoints.close()
  assert state['guard']['count'] == 7 and 'lacks' in caplog.text
  np.testing.assert_array_equal(state['block']['bias'], TREE['block']['bias'])


def test_a_damaged_tree_is_an_error_with_the_tensor_and_the_fix(tmp_path):
  trees.save_tree(tmp_path / 'tree', TREE | {'other': {'x': jnp.ones((2,))}})
  other = TREE | {'other': {'x': jnp.zeros((2,))}}
  trees.save_tree(tmp_path / 'changed', other)
  shutil.rmtree(tmp_path / 'tree/state')
  shutil.copytree(tmp_path / 'changed/state', tmp_path / 'tree/state')
  with pytest.raises(trees.DamagedError, match='not as written: other/x. Load it again.'):
    trees.load_tree(tmp_path / 'tree', abstract(other), 'Load it again.')
  trees.load_tree(tmp_path / 'tree', abstract(TREE), '', partly=True)  # Reads the rest alone.


def test_parameters_come_from_an_older_step_if_the_newest_is_damaged_but_not_if_it_is_asked_for(
  tmp_path, monkeypatch
):
  said = []

  def info(text, *values):
    if str(text).startswith('Loaded'):
      said.append((text % values).partition(' from')[0])

  monkeypatch.setattr(checkpoint.logging, 'info', info)
  checkpoints = make(tmp_path)
  for step in (1, 2):
    checkpoints.save(step, {'params': TREE, 'ema_params': TREE}, {'step': step})
  checkpoints.close()
  (tmp_path / 'checkpoints/2/state/_METADATA').write_text('{')
  assert trained.load_params(tmp_path, abstract(TREE))[1] == 1
  with pytest.raises(trees.DamagedError, match='checkpoints/2'):
    trained.load_params(tmp_path, abstract(TREE), step=2)
  assert said == ['Loaded averaged weights of step 1']
  (tmp_path / 'config.json').write_text('{"train": {"ema_decay": 0.0}}')
  trained.load_params(tmp_path, abstract(TREE))
  assert said[1:] == ['Loaded last weights of step 1']
  assert checkpoint.latest_step(tmp_path / 'checkpoints') == 2  # Only `train` sets aside.


def test_saves_by_time_come_after_so_many_minutes(tmp_path):
  checkpoints = make(tmp_path, every=0, every_minutes=0.5 / 60)
  assert not checkpoints.due(1)
  time.sleep(0.6)
  assert checkpoints.due(2) and not checkpoints.due(2, ask_clock=False)
  checkpoints.save(2, TREE, {'step': 2})
  assert not checkpoints.due(3)
  checkpoints.close()


def test_a_full_disk_is_told_in_bytes_and_the_next_save_tries_again(tmp_path, caplog, monkeypatch):
  absl_logging.get_absl_logger().propagate = True
  checkpoints = make(tmp_path)
  checkpoints.save(1, TREE, {'step': 1})
  used = collections.namedtuple('used', 'total used free')(100, 90, 10)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: used)
  checkpoints.save(2, TREE, {'step': 2})
  assert 'Step 2 is not saved: the disk is full: it takes 36 bytes, 10 are free' in caplog.text
  with pytest.raises(checkpoint.SaveError, match='the run ends at step 1'):
    checkpoints.check_saved(2)
  monkeypatch.undo()
  checkpoints.save(3, TREE, {'step': 3})
  checkpoints.check_saved(3)
  checkpoints.close()
  assert sorted(checkpoint.steps(tmp_path / 'checkpoints')) == [1, 3]


def test_a_save_that_breaks_off_keeps_older_steps_and_three_in_a_row_end_the_run(tmp_path):
  """Files may not grow beyond a limit: writes fail as they do where a quota ends."""
  big = {'x': jnp.asarray(np.random.default_rng(0).standard_normal(200_000, np.float32))}
  checkpoints = make(tmp_path)
  checkpoints.save(1, big, {'step': 1})
  checkpoints.check_saved(1)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    for step in (2, 3):
      checkpoints.save(step, big, {'step': step})
      checkpoints.close()
      assert not list((tmp_path / 'checkpoints').glob('*tmp*'))
    checkpoints.save(4, big, {'step': 4})
    with pytest.raises(
      checkpoint.SaveError, match=r'Steps that are: \[1\]. The last 3 saves failed'
    ):
      checkpoints.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  checkpoints.save(5, big, {'step': 5})
  checkpoints.check_saved(5)
  checkpoints.close()


def test_a_start_that_saved_nothing_does_not_bind_and_leaves_no_copies(tmp_path):
  workdir = tmp_path / 'run'
  for learning_rate in (1.0, 2.0):  # The first start failed.
    config = ml_collections.ConfigDict({'optimizer': {'learning_rate': learning_rate}})
    run_config.check(workdir, config)
    checkpoint.clear_failed_start(workdir)
    run_config.write(workdir, config)
    assert not (workdir / 'frozen').exists()
    (workdir / 'frozen').mkdir()
  save(workdir, 1)
  checkpoint.clear_failed_start(workdir)
  assert (workdir / 'frozen').exists()
  run_config.check(workdir, config)  # As it was given, though it lacks fields of today's configs.
  with pytest.raises(ValueError, match='learning_rate: 2.0 -> 3.0'):
    config.optimizer.learning_rate = 3.0
    run_config.check(workdir, config)
  (workdir / 'config.json').write_text('{"optimizer": ')
  with pytest.raises(ValueError, match='config.json is damaged.*Put back a copy'):
    run_config.check(workdir, config)


def test_no_copies_are_removed_from_a_folder_that_is_no_runs(tmp_path):
  (tmp_path / 'frozen').mkdir()
  checkpoint.clear_failed_start(tmp_path)
  assert (tmp_path / 'frozen').exists()
