"""Attention by kernels equals attention in float32, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax import components, generation
from i2vgen_jax.models import kernels
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import chips
from tests import tiny


def draw(*shape):
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, shape) for key in keys]


def values_and_gradients(attend, q, k, v, weight):
  output, vjp = jax.vjp(attend, q, k, v)
  return output, *vjp(weight)


@pytest.mark.parametrize('num_tokens', [512, 600])  # 600 is padded to 640.
def test_splash_attention_equals_plain(num_tokens):
  arrays = draw(1, 2, num_tokens, 2, 8)
  ours = values_and_gradients(lambda *x: kernels.splash(*x, interpret=True), *arrays)
  expected = values_and_gradients(kernels.plain, *arrays)
  for a, b in zip(ours, expected, strict=True):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
  ('num_tokens', 'tile'),
  [(1792, (896, 1792)), (14_400, (768, 14_592)), (3600, (768, 3840)), (14_080, (640, 14_080))],
)
def test_tiles_pad_least_and_are_multiples_of_the_lanes(num_tokens, tile):
  assert kernels.tiling(num_tokens) == tile


@pytest.mark.parametrize(
  ('platform', 'num_queries', 'num_keys', 'dtype', 'expected'),
  [
    ('tpu', 1792, 1792, 'bfloat16', 'splash'),
    ('tpu', 448, 448, 'bfloat16', 'xla'),
    ('tpu', 1792, 145, 'bfloat16', 'xla'),
    ('gpu', 1792, 1792, 'bfloat16', 'cudnn'),
    ('gpu', 1792, 1792, 'float32', 'xla'),
    ('cpu', 14_400, 14_400, 'bfloat16', 'xla'),
  ],
)
def test_the_kernel_is_chosen_by_shape_and_backend(
  platform, num_queries, num_keys, dtype, expected
):
  assert kernels.choose(platform, num_queries, num_keys, jnp.dtype(dtype)) == expected


@pytest.mark.parametrize('batch_size', [4, 3])  # 3 does not divide: every device holds all of it.
def test_each_device_attends_within_its_rows(batch_size):
  mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  arrays = draw(batch_size, 2, 16, 2, 8)[:3]
  mapped = mesh_lib.within(mesh, kernels._on_each_device(kernels.plain))
  ours = jax.jit(mapped)(*jax.device_put(arrays, mesh_lib.replicated(mesh)))
  if batch_size == 4:
    assert ours.sharding.spec[0] == ('data', 'fsdp')
  np.testing.assert_allclose(ours, kernels.plain(*arrays), rtol=1e-5, atol=1e-6)


def test_axes_are_those_of_the_mesh():
  used = {axis for axes in kernels.AXES.values() for axis in axes}
  assert used == set(mesh_lib.AXES)


@pytest.mark.slow
def test_sampling_chooses_kernels_for_the_mesh(monkeypatch):
  """Traced only, for a mesh that says it is of TPUs."""
  config = tiny.get_config('unused')
  built = components.build(config)
  sizes = mesh_lib.resolve({'data': 8, 'fsdp': 1, 'tensor': 1}, 8)
  mesh = chips.abstract_mesh(sizes, chips.DEVICES['v5p'])
  seen = []
  monkeypatch.setattr(kernels, 'choose', lambda platform, *_: seen.append(platform) or 'xla')
  latents, _, conditioning = built.unet_inputs(2, 32, 32, batch_size=8)
  params = jax.eval_shape(built.unet.init, jax.random.key(0), *built.smallest_unet_inputs())
  frozen = jax.eval_shape(built.encoders.init, jax.random.key(0))
  size = built.encoders.image_encoder.image_size
  ids = jnp.zeros((8, built.encoders.text_encoder.max_length), jnp.int32)
  video = jnp.zeros((8, 2, 32, 32, 3), jnp.uint8)
  inputs = dict(
    image=video[:, 0], clip_image=jnp.zeros((8, size, size, 3), jnp.uint8), token_ids=ids,
    negative_token_ids=ids[:1], fps=jnp.ones(8),
  )  # fmt: skip
  generate = generation.make_generate(built, mesh, **generation.settings(config))
  jax.eval_shape(generate, params['params'], frozen, inputs, latents)
  assert set(seen) == {'tpu'}
