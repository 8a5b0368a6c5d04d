"""A condition is one line of a config: the model trains without it, or with another in its place.

Gradients are those of the training loss, from pixels and token ids on, at the tiny config's sizes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from i2vgen_jax import components
from i2vgen_jax.models import conditioning, unet3d
from i2vgen_jax.training import step
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
  return config, components.build(config)


@functools.cache
def training(kinds):
  """The gradient function of the training loss, and the shapes of its arguments."""
  config, built = build(kinds)
  batch_loss = step.make_loss(
    built.unet,
    built.encoders,
    built.schedule,
    condition_dropout=config.condition_dropout,
    **config.loss,
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  encoders, shape = built.encoders, jax.ShapeDtypeStruct
  size = encoders.image_encoder.image_size
  batch = dict(
    video=shape((2, 4, 32, 32, 3), jnp.uint8),
    clip_image=shape((2, size, size, 3), jnp.uint8),
    token_ids=shape((2, encoders.text_encoder.max_length), jnp.int32),
    fps=shape((2,), jnp.float32),
    position=shape((2,), jnp.int32),
  )
  frozen = jax.eval_shape(encoders.init, key)
  frozen['null_text'] = jax.eval_shape(encoders.encode_text, frozen, batch['token_ids'])
  params = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  seed = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  return jax.grad(batch_loss), (params, frozen, batch, seed, shape((), jnp.int32))


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
  gradients = jax.eval_shape(gradient, *inputs)
  whole = training(RELEASED)[1][0]
  assert set(whole) - set(gradients) == (set() if kind == 'text' else {kind})

  unet = build(without(kind))[1].unet
  latents, timesteps, conditions = build(RELEASED)[1].smallest_unet_inputs()
  fields = {field for other in without(kind) for field in conditioning.CONDITIONERS[other].fields}
  conditions = {field: conditions[field] for field in fields}
  variables = {'params': inputs[0]}
  assert (
    jax.eval_shape(unet.apply, variables, latents, timesteps, conditions).shape == latents.shape
  )


@pytest.mark.parametrize('kinds', [('text',), PAPER], ids='+'.join)
def test_every_parameter_gets_a_gradient_from_the_training_loss(kinds):
  gradient, inputs = training(kinds)
  gradients = jax.jit(gradient, compiler_options=FAST_COMPILE)(*draw(inputs))
  norms = jax.tree.map(lambda leaf: float(jnp.linalg.norm(leaf)), gradients)
  assert all(0 < norm < np.inf for norm in jax.tree.leaves(norms)), norms


def make(kind, route_width):
  cls = conditioning.CONDITIONERS[kind]
  return cls(route_width=route_width, embedding_width=16, dropout=0.0, dtype=jnp.float32)


def test_the_papers_details_are_the_images_latents_added_to_the_noise_of_frame_0():
  """The U-Net then predicts what it predicts, without the line, for the sum."""
  sizes = dict(block_channels=(8,), attention_levels=(False,), layers_per_block=1, head_dim=4)
  sizes |= dict(norm_groups=4, temporal_in_heads=2, context_dim=6)
  text = dict(kind='text')
  with_line = unet3d.UNet3D(**sizes, conditioners=(text, dict(kind='first_frame_latents')))
  without_line = unet3d.UNet3D(**sizes, conditioners=(text,))
  rng = np.random.default_rng(0)
  noisy = rng.standard_normal((1, 3, 4, 4, 4)).astype(np.float32)
  image = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
  conditions = dict(text=np.ones((1, 2, 6), np.float32), image_latents=image)
  inputs = noisy, np.array([10])
  variables = draw(jax.eval_shape(with_line.init, jax.random.key(0), *inputs, conditions))
  apply, expect = (
    jax.jit(unet.apply, compiler_options=FAST_COMPILE) for unet in (with_line, without_line)
  )
  prediction = apply(variables, *inputs, conditions)
  noisy[:, 0] += image
  expected = expect(variables, *inputs, conditions)
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
