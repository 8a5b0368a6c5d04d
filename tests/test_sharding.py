"""The mesh and the rules that place parameters on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding

P = jax.sharding.PartitionSpec
MESH = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})


def test_one_axis_takes_the_devices_that_are_left():
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 2, 'tensor': 1})
  assert dict(mesh.shape) == {'data': 4, 'fsdp': 2, 'tensor': 1}


@pytest.mark.parametrize(
  ('sizes', 'message'),
  [
    ({'data': 3, 'fsdp': 1, 'tensor': 1}, 'needs 3 devices, but there are 8'),
    ({'data': -1, 'fsdp': 3, 'tensor': 1}, 'needs 3 times something devices'),
    ({'data': -1, 'fsdp': -1, 'tensor': 1}, 'one axis at most'),
    ({'data': 8, 'fsdp': 1}, 'must give a size for each'),
    ({'data': 8, 'fsdp': 1, 'tensor': 1, 'model': 1}, 'must give a size for each'),
  ],
)
def test_meshes_that_cannot_be_are_refused(sizes, message):
  with pytest.raises(ValueError, match=message):
    mesh_lib.make_mesh(sizes)


def test_a_batch_keeps_its_rows_and_splits_over_data_and_fsdp():
  batch = {'video': np.arange(16).reshape(8, 2)}
  placed = mesh_lib.place_batch(batch, MESH)['video']
  np.testing.assert_array_equal(placed, batch['video'])
  assert placed.sharding.spec == P(('data', 'fsdp'))
  assert placed.addressable_shards[0].data.shape == (2, 2)


@pytest.mark.parametrize(
  ('name', 'shape', 'spec'),
  [
    ('a/attn1/to_q/kernel', (320, 320), P('fsdp', 'tensor')),
    ('a/attn1/to_out_0/kernel', (320, 320), P('tensor', 'fsdp')),
    ('a/resnets_0/conv1/kernel', (3, 3, 320, 640), P(None, None, 'fsdp', 'tensor')),
    ('a/time_embedding/linear_1/kernel', (320, 1280), P('fsdp', None)),
    ('a/norm/scale', (1280,), P()),
    ('a/conv_in/kernel', (3, 3, 8, 320), P()),
    ('opt_state/0/mu/a/attn1/to_q/kernel', (320, 320), P('fsdp', 'tensor')),
  ],
)
def test_rules_place_parameters_and_their_moments_alike(name, shape, spec):
  assert sharding.spec_for(name, shape, MESH, 65_536) == spec


def test_an_indivisible_dim_names_the_parameter_and_the_axis():
  with pytest.raises(ValueError, match=r'odd/kernel of shape \(321, 320\).*fsdp=2'):
    sharding.spec_for('odd/kernel', (321, 320), MESH, 0)


def test_a_rule_that_names_an_axis_twice_is_refused():
  with pytest.raises(ValueError, match='does not fit w'):
    sharding.spec_for('w', (512, 512), MESH, 0, rules=(('w', ('fsdp', 'fsdp')),))


def test_the_first_matching_rule_wins():
  rules = (('w', ('tensor', None)), ('w', ('fsdp', None)))
  assert sharding.spec_for('w', (512, 512), MESH, 0, rules) == P('tensor', None)


def test_sharded_trees_hold_a_part_on_each_device():
  tree = {'kernel': jnp.ones((512, 512)), 'bias': jnp.ones((512,))}
  placed = jax.device_put(tree, sharding.shard_tree(tree, MESH, 65_536))
  assert placed['kernel'].addressable_shards[0].data.shape == (256, 512)
  assert placed['bias'].addressable_shards[0].data.shape == (512,)
