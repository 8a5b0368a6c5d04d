"""Properties of the video U-Net that hold for any weights, or at initialisation."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.conditions import image_latent_tokens, image_latents
from i2vgen_jax.models import layers, unet3d
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import tensors, unet_names
from tests import tiny
from tests.golden import recorded

TINY = dict(
  block_channels=(16, 24),
  attention_levels=(False, False),  # The middle block has both transformers.
  layers_per_block=1,
  head_dim=8,
  temporal_in_heads=2,
  norm_groups=8,
  context_dim=12,
  dropout=0.2,
)
# Tiny programs: LLVM's optimisation would take longer than it saves.
FAST_COMPILE = {'xla_backend_optimization_level': 0}


def make_unet(without=None, **changes):
  kinds = tuple(line for line in tiny.RELEASED if line.kind != without)
  return unet3d.UNet3D(**(TINY | dict(conditioners=kinds) | changes))


@functools.cache
def jitted_apply(**changes):
  return jax.jit(make_unet(**changes).apply, compiler_options=FAST_COMPILE)


@functools.cache
def make_inputs(batch_size=4, num_frames=4, height=5, width=6):
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  conditions = dict(
    text=normal(batch_size, 3, 12),
    image_embedding=normal(batch_size, 10),
    image_latents=normal(batch_size, height, width, 4),
    fps=jnp.arange(batch_size) + 4,
  )
  latents = normal(batch_size, num_frames, height, width, 4)
  return latents, jnp.arange(batch_size) * 100, conditions


@functools.cache
def initial_params():
  init = jax.jit(make_unet().init, compiler_options=FAST_COMPILE)
  key = jax.random.key(0, impl='unsafe_rbg')  # Draws what compiles in half the time of threefry's.
  return init(key, *make_inputs())['params']


def open_initial_params():
  """As initialised, but for a conv_out that lets something through."""
  params = initial_params()
  kernel = jax.random.normal(jax.random.key(1), params['conv_out']['kernel'].shape)
  return params | dict(conv_out=params['conv_out'] | dict(kernel=kernel))


@functools.cache
def random_params():
  shapes = jax.eval_shape(make_unet().init, jax.random.key(0), *make_inputs())['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), jnp.float32), shapes
  )


def released_shapes():
  """Names and shapes, as torch has them, of the released U-Net, without its 6 GB."""
  unet = unet3d.UNet3D(tiny.RELEASED)
  conditions = dict(
    text=jnp.zeros((1, 2, 1024)),
    image_embedding=jnp.zeros((1, 1024)),
    image_latents=jnp.zeros((1, 8, 8, 4)),
    fps=jnp.zeros(1),
  )
  inputs = jnp.zeros((1, 1, 8, 8, 4)), jnp.zeros(1), conditions
  params = jax.eval_shape(unet.init, jax.random.key(0), *inputs)['params']
  # A broadcast zero has the shape of a tensor and none of its memory.
  params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), params)
  return {
    unet_names.name_of(path): tensors._to_torch_layout(path, leaf).shape
    for path, leaf in sharding.by_path(params).items()
  }


def test_released_sizes_have_the_released_tensors():
  """1,511 tensors and 1,420,469,224 parameters, each of diffusers' name and shape."""
  diffusers = pytest.importorskip('diffusers')
  torch = pytest.importorskip('torch')
  with torch.device('meta'):
    torch_unet = diffusers.I2VGenXLUNet(
      down_block_types=['CrossAttnDownBlock3D'] * 3 + ['DownBlock3D'],
      up_block_types=['UpBlock3D'] + ['CrossAttnUpBlock3D'] * 3,
      cross_attention_dim=1024,
    )
  expected = {name: tuple(tensor.shape) for name, tensor in torch_unet.state_dict().items()}
  shapes = released_shapes()
  assert shapes == expected
  assert len(shapes) == 1_511
  assert sum(np.prod(shape) for shape in shapes.values()) == 1_420_469_224


def test_released_sizes_are_those_of_the_list_of_released_tensors():
  rows = recorded.released_tensors()
  expected = {row['diffusers_key']: row['diffusers_shape'] for row in rows}
  assert {name: str(tuple(shape)) for name, shape in released_shapes().items()} == expected


@pytest.mark.slow
def test_zero_initialised_temporal_layers_leave_frames_independent():
  """Editing frame 2 of the input changes frame 2 of the output, and no other."""
  latents, *rest = make_inputs()
  variables = {'params': open_initial_params()}
  change = jitted_apply()(variables, latents.at[:, 2].add(1.0), *rest)
  change -= jitted_apply()(variables, latents, *rest)
  assert np.abs(change[:, 2]).max() > 0.1
  np.testing.assert_allclose(np.delete(change, 2, axis=1), 0, atol=1e-6)


def test_trained_temporal_layers_let_frames_see_each_other():
  latents, *rest = make_inputs()
  variables = {'params': random_params()}
  change = jitted_apply()(variables, latents.at[:, 2].add(1.0), *rest)
  change -= jitted_apply()(variables, latents, *rest)
  assert np.abs(change).max(axis=(0, 2, 3, 4)).min() > 1e-4


def test_frame_order_is_free_at_the_start_without_image_latents():
  """Permuting the input's frames permutes the output's."""
  apply = jitted_apply(without='image_latents')
  latents, *rest = make_inputs()
  params = {name: value for name, value in open_initial_params().items() if name != 'image_latents'}
  params['conv_in'] = params['conv_in'] | dict(kernel=params['conv_in']['kernel'][:, :, :4])
  order = jnp.array([2, 0, 3, 1])
  permuted = apply({'params': params}, latents[:, order], *rest)
  expected = apply({'params': params}, latents, *rest)[:, order]
  np.testing.assert_allclose(permuted, expected, atol=1e-5)


def test_initial_values_are_those_of_vgen():
  """Zero where a residual branch ends; elsewhere uniform in +-1/sqrt(fan_in), biases too."""
  flat = sharding.by_path(initial_params())
  zeros = {path for path, value in flat.items() if not np.any(value) and 'norm' not in path}
  # In a TemporalConv the norms are called convI_0; their biases are zero as any norm's.
  zeros = {path for path in zeros if not re.search(r'conv\d_0/', path)}
  ends = ('conv2/', 'temp_conv/conv4_3/', 'proj_out/', 'fps/linear_2/')
  expected = {path for path in flat if any(end in path for end in ends) and 'norm' not in path}
  assert zeros == expected | {'conv_out/kernel'}
  kernel = flat['down_blocks_0/resnets_0/conv1/kernel']
  bias = flat['down_blocks_0/resnets_0/conv1/bias']
  bound = (9 * 16) ** -0.5
  assert 0.99 * bound < np.abs(kernel).max() <= bound
  assert 0.5 * bound < np.abs(bias).max() <= bound


def keys_for(positions):
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(7), jnp.asarray(positions))


def test_dropout_follows_the_sample_and_its_key():
  """Permuting samples with their keys permutes predictions: place in the batch has no say."""
  order = jnp.array([3, 1, 0, 2])
  variables = {'params': random_params()}
  inputs = make_inputs()
  predictions = jitted_apply()(variables, *inputs, keys_for(range(4)))
  permuted = jax.tree.map(lambda x: x[order], inputs)
  np.testing.assert_allclose(
    jitted_apply()(variables, *permuted, keys_for(order)), predictions[order], atol=1e-5
  )
  without = jitted_apply()(variables, *inputs)
  assert np.abs(predictions - without).max() > 0.01


def test_dropout_is_the_same_in_a_smaller_batch_and_under_remat():
  variables = {'params': random_params()}
  inputs = make_inputs()
  predictions = jitted_apply()(variables, *inputs, keys_for(range(4)))
  half = jax.tree.map(lambda x: x[2:], inputs)
  recomputed = jitted_apply(remat='block')(variables, *half, keys_for([2, 3]))
  np.testing.assert_allclose(recomputed, predictions[2:], atol=1e-5)


class TwoDropouts(nn.Module):
  @nn.compact
  def __call__(self, x, keys_B):
    return [layers.Dropout(0.2, name=name)(x, keys_B) for name in ('a', 'b')]


def test_dropout_keeps_the_mean_and_differs_between_modules_and_samples():
  first, second = TwoDropouts().apply({}, jnp.ones((3, 10, 25, 40)), keys_for(range(3)))
  np.testing.assert_allclose(np.mean(first == 0), 51 / 256, atol=0.01)
  np.testing.assert_allclose(np.mean(first), 1.0, atol=0.01)
  assert not np.array_equal(first, second)
  assert not np.array_equal(first[0], first[1])
  # Rows whose mask comes of one random word are as independent as any: 0.2^2 are dropped in both.
  both = (first[:, :3] == 0) & (first[:, 3:6] == 0)
  np.testing.assert_allclose(np.mean(both), (51 / 256) ** 2, atol=0.01)


@pytest.mark.parametrize('remat', unet3d.POLICIES)
def test_gradients_are_the_same_under_remat(remat):
  block = layers.ResBlock(8, norm_groups=4, dropout=0.2)
  recomputed = unet3d.rematerialized(layers.ResBlock, remat)(8, norm_groups=4, dropout=0.2)
  inputs = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 8)), jnp.ones((2, 6)), keys_for([0, 1])
  shapes = jax.eval_shape(block.init, jax.random.key(0), *inputs)
  variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)

  def gradient(module):
    grad = jax.grad(lambda variables: jnp.sum(module.apply(variables, *inputs) ** 2))
    return jax.jit(grad, compiler_options=FAST_COMPILE)(variables)

  gradients = gradient(block), gradient(recomputed)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), *gradients)


def test_bfloat16_compute_stays_near_float32_and_returns_float32():
  params = {'params': open_initial_params()}
  exact = jitted_apply()(params, *make_inputs())
  rounded = jitted_apply(dtype=jnp.bfloat16)(params, *make_inputs())
  assert rounded.dtype == jnp.float32
  assert np.linalg.norm(rounded - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize('size', [5, 31, 32, 56, 88])
def test_adaptive_pooling_equals_torch(size):
  torch = pytest.importorskip('torch')
  x = np.random.default_rng(0).standard_normal((2, size, 9, 3)).astype(np.float32)
  pooled = image_latent_tokens.adaptive_average_pool(jnp.asarray(x), 32)
  expected = torch.nn.AdaptiveAvgPool2d(32)(torch.from_numpy(x).permute(0, 3, 1, 2))
  np.testing.assert_allclose(pooled, expected.permute(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize('num_frames, marks', [(1, []), (2, [1.0]), (5, [0.25, 0.5, 0.75, 1.0])])
def test_position_marks_rise_to_one_after_the_image(num_frames, marks):
  image = jax.random.normal(jax.random.key(0), (2, 3, 4, 4))
  conditioner = image_latents.ImageLatents(4, 16, dropout=0.0, dtype=jnp.float32)
  sequence = conditioner.sequence(image, num_frames)
  assert sequence.shape == (2, num_frames, 3, 4, 4)
  np.testing.assert_array_equal(sequence[:, 0], image)
  np.testing.assert_allclose(np.ptp(sequence[:, 1:], axis=(0, 2, 3, 4)), 0)
  np.testing.assert_allclose(sequence[0, 1:, 0, 0, 0], marks)


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(norm_groups=5), r'16 must divide over norm_groups=5'),
    (dict(head_dim=16), r'24 must divide over head_dim=16'),
    (dict(attention_levels=(True,)), r'attention_levels=\(True,\) must be of one length'),
    (dict(remat='all'), r"remat='all' is not known"),
    (dict(dropout=0.999), r'dropout=0.999: give a rate from 0 to 0.996'),
    (dict(dropout=-0.1), r'dropout=-0.1: give a rate'),
  ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
  unet = make_unet(**changes)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(unet.init, jax.random.key(0), *make_inputs())


def test_a_missing_condition_is_named():
  latents, timesteps, conditions = make_inputs()
  conditions = {name: value for name, value in conditions.items() if name != 'fps'}
  with pytest.raises(ValueError, match=r"'fps' needs conditioning \['fps'\]; given: \['image_emb"):
    jax.eval_shape(make_unet().init, jax.random.key(0), latents, timesteps, conditions)


@pytest.mark.parametrize('use_bias', [False, True])
def test_parts_of_a_dense_layer_are_those_of_its_whole(use_bias):
  x, key = jnp.linspace(-1, 1, 12).reshape(2, 6), jax.random.key(0)
  dense = functools.partial(layers.Dense, 4, use_bias=use_bias)
  variables = dense().init(key, x)
  parts = dense(parts=2).apply(variables, x)
  assert [part.shape for part in parts] == [(2, 2)] * 2
  np.testing.assert_allclose(jnp.concatenate(parts, 1), dense().apply(variables, x), rtol=1e-6)
