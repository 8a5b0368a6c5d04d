"""The mesh and the rules that place parameters on it."""

import dataclasses

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
  assert dict(mesh.shape) == {'slice': 1, 'data': 4, 'fsdp': 2, 'context': 1, 'tensor': 1}


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


def test_a_batch_keeps_its_rows_and_splits_over_slice_data_and_fsdp():
  batch = {'video': np.arange(16).reshape(8, 2)}
  placed = mesh_lib.place_batch(batch, MESH)['video']
  np.testing.assert_array_equal(placed, batch['video'])
  assert placed.sharding.spec == P(('slice', 'data', 'fsdp'))
  assert placed.addressable_shards[0].data.shape == (2, 2)


@pytest.mark.parametrize(
  ('sizes', 'per_process', 'process', 'reader'),
  [
    ((1, 4, 2, 1, 1), 2, 3, (3, 4)),  # Two rows of eight each.
    ((2, 2, 2, 1, 1), 4, 1, (1, 2)),  # A process is a slice.
    ((1, 1, 2, 1, 4), 2, 1, (0, 2)),  # Two processes hold parts of one matrix: the same rows.
    ((1, 1, 1, 1, 8), 2, 3, (0, 1)),
    ((1, 2, 1, 4, 1), 2, 1, (0, 2)),  # Two processes hold parts of one video.
  ],
)
def test_each_process_reads_the_rows_that_its_devices_hold(
  sizes, per_process, process, reader, monkeypatch
):
  devices = [_Device(i, i // per_process) for i in range(8)]
  mesh = jax.sharding.Mesh(np.array(devices).reshape(sizes), mesh_lib.AXES)
  monkeypatch.setattr(jax, 'process_index', lambda: process)
  assert mesh_lib.batch_reader(mesh) == reader


def test_slices_are_the_outermost_axis():
  """Though the devices come interleaved: only gradients may cross between slices."""
  devices = [_Device(i, i, slice_index=i % 2, platform='gpu') for i in range(8)]
  mesh = mesh_lib.make_mesh({'slice': 2, 'data': 2, 'fsdp': 2, 'tensor': 1}, devices)
  for index in range(2):
    assert {device.slice_index for device in mesh.devices[index].flat} == {index}
  with pytest.raises(ValueError, match='lie in 2 slices; set --config.mesh.slice=2'):
    mesh_lib.make_mesh({'slice': 1, 'data': 4, 'fsdp': 2, 'tensor': 1}, devices)


def test_rows_that_processes_share_in_part_are_refused():
  devices = [_Device(i, i // 3) for i in range(6)]
  mesh = jax.sharding.Mesh(np.array(devices).reshape(1, 1, 3, 1, 2), mesh_lib.AXES)
  with pytest.raises(ValueError, match='unevenly over processes'):
    mesh_lib.batch_reader(mesh)


@dataclasses.dataclass(frozen=True)
class _Device:
  """Of a machine that is not here."""

  id: int
  process_index: int
  slice_index: int = 0
  platform: str = 'tpu'
  device_kind: str = 'TPU v5p'


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
