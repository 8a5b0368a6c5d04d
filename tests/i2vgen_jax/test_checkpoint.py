"""Trees and parameters saved and loaded; mismatches named."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax import checkpoint, trees

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
