"""A condition is one line of a config: the model trains without it, or with another in its place.

Gradients are those of the training loss, from pixels and token ids on, at the tiny config's sizes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from data_pipelines.corpus import buckets
from data_pipelines.stream import fields
from i2vgen_jax import conditions
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora, unet3d
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.training import objective
from tests import tiny

FAST_COMPILE = {'xla_backend_optimization_level': 0}
RELEASED = tuple(line['kind'] for line in common.CONDITIONERS)
PAPER = ('global_image_tokens', 'first_frame_latents', 'fps')  # Of its base stage.


def without(kind):
  return tuple(other for other in RELEASED if other != kind)


@functools.cache
def build(kinds):
  config = tiny.get_config('no corpus')
  config.unet.conditioners = tuple(dict(kind=kind) for kind in kinds)
  return config, session_lib.build(config)


@functools.cache
def training(kinds):
  """The gradient function of the training loss, and the shapes of its arguments."""
  config, built = build(kinds)
  batch_loss = objective.make_loss(built, built.dropout_rates())
  key, shape = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct
  bucket = buckets.Bucket('a', 4, 32, 32, 8.0, batch_size=2)
  batch = {
    field.name: shape((2, *field.shape(bucket)), jnp.uint8)
    for field in fields.pixel_fields(built.fields())
  }
  batch |= fields.add_rows({}, built.fields(), fields.Rows(bucket, [''] * 2, range(2)))
  batch = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), batch)
  batch['position'] = shape((2,), jnp.int32)
  frozen = frozen_lib.abstract(built.networks)
  frozen['null'] = {
    name: jax.eval_shape(built.signals[name].encode, frozen, inputs)
    for name, inputs in built.negative('').items()
  }
  params = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  seed = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  return jax.grad(batch_loss, has_aux=True), (params, frozen, batch, seed, shape((), jnp.int32))


def draw(shapes):
  """Small random parameters; any valid data."""
  rng = np.random.default_rng(0)

  def value(leaf):
    if leaf.dtype == jnp.float32:
      return jnp.asarray(0.2 * rng.standard_normal(leaf.shape), jnp.float32)
    return jnp.asarray(rng.integers(0, 200, leaf.shape), leaf.dtype)

  return jax.tree.map(value, shapes)


@pytest.mark.parametrize('kind', RELEASED)
def test_without_its_line_a_conditions_parameters_and_field_are_not_needed(kind):
  gradient, inputs = training(without(kind))
  gradients, _ = jax.eval_shape(gradient, *inputs)
  whole = training(RELEASED)[1][0]
  assert set(whole) - set(gradients) == (set() if kind == 'text' else {kind})

  unet = build(without(kind))[1].unet
  latents, timesteps, given = build(RELEASED)[1].smallest_unet_inputs()
  read = {cls.name for cls in conditions.signal_classes(lora.bare(unet).conditioners)}
  given = {name: given[name] for name in read}
  variables = {'params': inputs[0]}
  assert jax.eval_shape(unet.apply, variables, latents, timesteps, given).shape == latents.shape


@pytest.mark.parametrize(
  'kinds', [pytest.param(('text',), marks=pytest.mark.slow), PAPER], ids='+'.join
)
def test_every_parameter_gets_a_gradient_from_the_training_loss(kinds):
  gradient, inputs = training(kinds)
  gradients, _ = jax.jit(gradient, compiler_options=FAST_COMPILE)(*draw(inputs))
  norms = jax.tree.map(lambda leaf: float(jnp.linalg.norm(leaf)), gradients)
  assert all(0 < norm < np.inf for norm in jax.tree.leaves(norms)), norms


def make(kind, route_width):
  cls = conditions.conditioner(kind)
  return cls(route_width=route_width, embedding_width=16, dropout=0.0, dtype=jnp.float32)


def test_the_papers_details_are_the_images_latents_added_to_the_noise_of_frame_0():
  """The U-Net then predicts what it predicts, without the line, for the sum."""
  sizes = dict(block_channels=(8,), attention_levels=(False,), layers_per_block=1, head_dim=4)
  sizes |= dict(norm_groups=4, temporal_in_heads=2, context_dim=6)
  lines = conditions.read([dict(kind='text'), dict(kind='first_frame_latents')])
  with_line = unet3d.UNet3D(lines, **sizes)
  without_line = unet3d.UNet3D(lines[:1], **sizes)
  rng = np.random.default_rng(0)
  noisy = rng.standard_normal((1, 3, 4, 4, 4)).astype(np.float32)
  image = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
  given = dict(text=np.ones((1, 2, 6), np.float32), image_latents=image)
  inputs = noisy, np.array([10])
  variables = draw(jax.eval_shape(with_line.init, jax.random.key(0), *inputs, given))
  apply, expect = (
    jax.jit(unet.apply, compiler_options=FAST_COMPILE) for unet in (with_line, without_line)
  )
  prediction = apply(variables, *inputs, given)
  summed = noisy.copy()  # The first call may still read the other.
  summed[:, 0] += image
  expected = expect(variables, summed, *inputs[1:], given)
  np.testing.assert_allclose(prediction, expected, atol=1e-5 * np.abs(expected).max())


def test_the_papers_semantics_are_the_clip_vector_plus_a_global_vector_of_the_image():
  """Taking the global vector off the CLIP vector leaves the tokens of the CLIP vector alone."""
  rng = np.random.default_rng(0)
  vector = rng.standard_normal((2, 10)).astype(np.float32)
  image = rng.standard_normal((2, 8, 8, 4)).astype(np.float32)
  both = make('global_image_tokens', route_width=6)
  params = draw(jax.eval_shape(both.init, jax.random.key(0), vector, image, 1, None))['params']
  encoder = make('image_latent_tokens', route_width=10)
  global_vector = encoder.apply({'params': params['global_encoder']}, image, 1, None).mean(1)
  assert np.abs(global_vector).max() > 1e-3
  tokens = make('image_tokens', route_width=6).apply({'params': params['tokens']}, vector, 1, None)
  moved = both.apply({'params': params}, vector - global_vector, image, 1, None)
  assert tokens.shape == (2, 4, 6)
  np.testing.assert_allclose(moved, tokens, atol=1e-5)


@pytest.mark.parametrize(
  'lines, message',
  [
    ([dict(kind='txt')], r"kind='txt'; known: first_frame_latents, fps"),
    ([dict(kind='fps')], r'at least one context token'),
    ([dict(kind='text')] * 2, r'name a kind twice'),
    ([dict(kind='text', width=3)], r"'text' has no field \['width'\]"),
    ([dict(kind='nowhere:Text')], r'nowhere'),
  ],
)
def test_lines_that_are_invalid_are_named(lines, message):
  with pytest.raises(ValueError, match=message):
    conditions.read(lines)
