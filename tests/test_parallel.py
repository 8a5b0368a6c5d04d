"""What devices send each other: weights, their gradients and sums, and no activations."""

import jax
import jax.numpy as jnp
import pytest

from i2vgen_jax.models import attention
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.plan import hlo

BATCH, FRAMES, SIDE, CHANNELS = 8, 2, 8, 16


BLOCKS = {
  'SpatialTransformer': attention.SpatialTransformer(2, 8, 4),
  'TemporalTransformer': attention.TemporalTransformer(2, 8, 4),
}


@pytest.mark.parametrize('name', BLOCKS)
def test_blocks_send_weights_and_their_gradients_only(name):
  """On a mesh of fsdp: no all-to-all, and nothing as large as an activation is gathered."""
  module, mesh = BLOCKS[name], mesh_lib.make_mesh(dict(data=2, fsdp=4, tensor=1))
  x = jax.ShapeDtypeStruct((BATCH, 4 * FRAMES, 2 * SIDE, SIDE, CHANNELS), jnp.float32)
  context = jax.ShapeDtypeStruct((BATCH, 4, CHANNELS), jnp.float32)
  others = (context,) if name == 'SpatialTransformer' else ()
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(module.init, key, x, *others)
  placed = sharding.shard_tree(params, mesh, min_elements=2)
  rows = mesh_lib.batch_sharding(mesh)

  def backward(params, x, *others):
    y, vjp = jax.vjp(lambda params, x: module.apply(params, x, *others), params, x)
    return vjp(y)

  arguments = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for leaf in (x, *others)]
  abstract = jax.tree.map(
    lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), params, placed
  )
  compiled = jax.jit(mesh_lib.within(mesh, backward), out_shardings=(placed, rows)).lower(
    abstract, *arguments
  ).compile()  # fmt: skip
  exchanges = hlo.collectives(hlo.parse(compiled.as_text()), dict(mesh.shape))
  largest = max(leaf.size * 4 for leaf in jax.tree.leaves(params))
  activation = x.size * 4 // mesh_lib.batch_shards(mesh)
  assert largest < activation
  assert {exchange.kind for exchange in exchanges} >= {'all-gather'}
  for exchange in exchanges:
    assert exchange.kind != 'all-to-all', exchange.op.path
    if exchange.kind != 'all-reduce':  # XLA may reduce all gradients of a layer at once.
      assert exchange.bytes <= largest, (exchange.kind, exchange.bytes, exchange.op.path)
    assert exchange.bytes < activation, (exchange.kind, exchange.bytes, exchange.op.path)
