"""What devices send each other: weights, their gradients and sums, and no activations; and that
the mesh changes nothing but rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax import session as session_lib
from i2vgen_jax.models import attention
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.plan import exchanges, hlo
from i2vgen_jax.training import objective
from i2vgen_jax.training import step as step_lib
from tests import tiny

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
  found = exchanges.collectives(hlo.parse(compiled.as_text()), dict(mesh.shape))
  largest = max(leaf.size * 4 for leaf in jax.tree.leaves(params))
  activation = x.size * 4 // mesh_lib.batch_shards(mesh)
  assert largest < activation
  assert {exchange.kind for exchange in found} >= {'all-gather'}
  for exchange in found:
    assert exchange.kind != 'all-to-all', exchange.op.path
    if exchange.kind != 'all-reduce':  # XLA may reduce all gradients of a layer at once.
      assert exchange.bytes <= largest, (exchange.kind, exchange.bytes, exchange.op.path)
    assert exchange.bytes < activation, (exchange.kind, exchange.bytes, exchange.op.path)


@pytest.mark.slow
@pytest.mark.parametrize(
  'sizes',
  [
    dict(slice=2, data=1, fsdp=2, tensor=2),
    dict(slice=2, data=2, fsdp=1, context=2, tensor=1),
    dict(data=2, fsdp=2, context=2, tensor=1),  # A video per two devices: its frames or pixels.
    dict(data=1, fsdp=2, context=2, tensor=2),  # Two videos for two devices.
  ],
)
def test_loss_and_gradients_are_those_of_one_device(sizes):
  """On meshes whose every axis splits something, with noise, timesteps and dropout drawn anew."""
  config = tiny.get_config('unused')
  built = session_lib.build(config)
  latents, _, conditioning = built.unet_inputs(2, 32, 32, batch_size=4)
  draw = np.random.default_rng(0).standard_normal
  encoded = jax.tree.map(
    lambda leaf: draw(leaf.shape).astype(np.float32),
    dict(latents=latents, conditioning=conditioning),
  ) | dict(position=np.arange(4, dtype=np.int32))
  loss = objective.make_encoded_loss(built.unet, built.schedule, **config.loss)
  seed = jax.random.key_data(jax.random.key(3))

  def on(sizes, devices, params=None):
    mesh = mesh_lib.make_mesh(sizes, devices)
    abstract = built.on(mesh).abstract_params()
    if params is None:  # Not as they are made: where kernels are zero, others have no gradient.
      params = jax.tree.map(lambda leaf: 0.1 * draw(leaf.shape).astype(np.float32), abstract)
    placed = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))
    batch = mesh_lib.place_batch(encoded['conditioning'], mesh)
    batch = mesh_lib.place_batch(
      {name: encoded[name] for name in ('latents', 'position')}, mesh
    ) | dict(conditioning=batch)
    gradient = step_lib.make_mean_gradient(
      lambda params, frozen, batch, seed, step: loss(params, batch, seed, step), accumulation=1
    )
    made = jax.jit(mesh_lib.within(mesh, gradient))(batch, placed, {}, seed, 5)
    return params, jax.device_get(made)

  params, ((expected, levels), gradients) = on(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  _, ((found, split_levels), split) = on(sizes, jax.devices(), params)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # Means by level: of several replicas, both sums are divided by their number.
  np.testing.assert_allclose(split_levels[0] * levels[1], levels[0] * split_levels[1], rtol=1e-5)
  np.testing.assert_array_equal(split_levels[1] > 0, levels[1] > 0)
  largest = max(np.linalg.norm(leaf) for leaf in jax.tree.leaves(gradients))
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(split), strict=True
  ):
    # Some are zero but for rounding: a shift before a norm.
    error = np.linalg.norm(a - b) - 1e-7 * largest
    assert error <= 1e-5 * np.linalg.norm(a), sharding.path_name(path)
