"""Means over replicas of several slices, and what JAX writes into partly manual programs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.parallel import lowering, replicas
from i2vgen_jax.parallel import mesh as mesh_lib

P = jax.sharding.PartitionSpec
ROWS = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
WEIGHT = np.linspace(-1, 1, 12).reshape(4, 3).astype(np.float32)


def of_rows(rows, weight):
  """(loss, gradients by layer) and a gradient of the rows."""

  def loss(layers, rows):
    return jnp.mean(jnp.tanh(rows @ layers['first']['kernel'] + layers['last']) ** 2)

  layers = dict(first=dict(kernel=weight), last=jnp.ones(3))
  value, (gradients, of_each) = jax.value_and_grad(loss, (0, 1))(layers, rows)
  return (value, gradients), of_each * len(rows)


def on(sizes, function):
  mesh = mesh_lib.make_mesh(sizes)
  placed = jax.device_put(ROWS, mesh_lib.batch_sharding(mesh))
  return jax.jit(mesh_lib.within(mesh, function)).lower(placed, WEIGHT)


def test_means_over_slices_are_those_of_the_whole_batch():
  expected = of_rows(ROWS, WEIGHT)
  function = replicas.mean_over_replicas(of_rows, has_rows=True)
  lowered = on(dict(slice=2, data=2, fsdp=2, tensor=1), function)
  found = lowered.compile()(ROWS, WEIGHT)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), found, expected)
  without_rows = replicas.mean_over_replicas(lambda *given: of_rows(*given)[0])
  again = on(dict(slice=2, data=2, fsdp=2, tensor=1), without_rows).compile()(ROWS, WEIGHT)
  jax.tree.map(np.testing.assert_array_equal, again, found[0])


def test_each_entry_is_reduced_by_itself_behind_a_barrier():
  text = on(
    dict(slice=2, data=2, fsdp=2, tensor=1),
    replicas.mean_over_replicas(of_rows, has_rows=True),
  ).as_text()
  # The loss, `first` and `last`: what one of them waits for are not the others.
  assert text.count('optimization_barrier') == text.count('"stablehlo.all_reduce"') == 3


def test_rows_of_a_replica_are_held_over_fsdp():
  text = on(
    dict(slice=2, data=2, fsdp=2, tensor=1),
    replicas.mean_over_replicas(of_rows, has_rows=True),
  ).as_text()
  assert 'sharding_constraint %arg2 <@mesh, [{"fsdp"}, {}]>' in text


def test_one_slice_is_left_as_it_is():
  function = replicas.mean_over_replicas(of_rows, has_rows=True)
  sizes = dict(data=4, fsdp=2, tensor=1)
  assert on(sizes, function).as_text() == on(sizes, of_rows).as_text()


def test_partly_manual_programs_hold_no_constraints_that_say_nothing(monkeypatch):
  """If this fails without ours, JAX has mended it and parallel/lowering.py can go."""
  sizes = dict(slice=2, data=2, fsdp=2, tensor=1)
  function = replicas.mean_over_replicas(of_rows, has_rows=True)
  says_nothing = r'sharding_constraint .*\[\{\?\}'
  assert not re.search(says_nothing, on(sizes, function).as_text())
  monkeypatch.setattr(lowering, '_lower', lowering._original)
  assert re.search(says_nothing, on(sizes, function).as_text())


def test_constraints_of_explicit_axes_stay():
  lowering.leave_out_empty_constraints()
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Explicit,))
  with jax.set_mesh(mesh):
    rows = jax.reshard(ROWS, P('data'))
    assert jax.typeof(jax.jit(lambda x: x.sum(1))(rows)).sharding.spec == P('data')
    assert 'sharding_constraint' in jax.jit(lambda x: x.sum(1)).lower(rows).as_text()


@pytest.mark.slow
@pytest.mark.parametrize('name', ['ResBlock', 'SpatialTransformer', 'TemporalTransformer'])
def test_a_block_takes_two_slices_no_longer_than_one(name):
  """Cycles of a v5p, as libtpu estimates them; without replicas.py half as long again."""
  pytest.importorskip('libtpu')
  from benchmarks import blocks
  from i2vgen_jax.parallel import topology

  secs, sums = {}, {}
  for chips in ('v5p-16', '2xv5p-8'):
    found = blocks.measure(
      name, topology.parse(chips), channels=320, size=(32, 56), frames=16, batch=1,
      remat='none', profile='none', fsdp=4,
    )  # fmt: skip
    secs[chips] = found['estimated_secs']['ops']
    sums[chips] = found['secs_by_kind_of_op'].get('reduce', 0)
  assert secs['2xv5p-8'] < 1.05 * secs['v5p-16'], secs
  assert 'all-reduce over slice (DCN)' in found['collectives']
  # No sum stands alone that does not on one slice.
  assert sums['2xv5p-8'] < sums['v5p-16'] + 0.01 * secs['v5p-16'], sums
