"""AutoencoderKL against diffusers' on random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.models import vae
from i2vgen_jax.pretrained import tensors, vae_names

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

# float32 rounding over some thirty layers: 1.4e-6 seen.
RTOL = 1e-5

SMALL = dict(block_channels=(8, 16, 16, 24), layers_per_block=2, norm_groups=4)


def diffusers_vae(block_channels, layers_per_block, norm_groups):
  torch.manual_seed(0)
  levels = len(block_channels)
  model = diffusers.AutoencoderKL(
    down_block_types=['DownEncoderBlock2D'] * levels,
    up_block_types=['UpDecoderBlock2D'] * levels,
    block_out_channels=block_channels,
    layers_per_block=layers_per_block,
    norm_num_groups=norm_groups,
  ).eval()
  with torch.no_grad():  # Norms and biases off their neutral start, so that each is tested.
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


def from_diffusers(model, **fields):
  ours = vae.AutoencoderKL(**fields)
  abstract = jax.eval_shape(ours.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
  state = {name: value.numpy() for name, value in model.state_dict().items()}
  return ours, tensors.from_formats(state, abstract, vae_names.name_of)[0]


def relative_error(ours, theirs):
  return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope='module')
def pair():
  theirs = diffusers_vae(**SMALL)
  ours, params = from_diffusers(theirs, **SMALL)
  encode = jax.jit(functools.partial(ours.apply, method='encode'))
  decode = jax.jit(functools.partial(ours.apply, method='decode'))
  return theirs, params, encode, decode


@pytest.mark.parametrize('height, width', [(32, 32), (40, 24)])
def test_encoded_moments_equal_those_of_diffusers(pair, height, width):
  theirs, params, encode, _ = pair
  images = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
  with torch.no_grad():
    posterior = theirs.encode(torch.from_numpy(images.transpose(0, 3, 1, 2))).latent_dist
  mean, logvar = encode({'params': params}, images)
  assert relative_error(mean, posterior.mean.numpy().transpose(0, 2, 3, 1)) < RTOL
  assert relative_error(logvar, posterior.logvar.numpy().transpose(0, 2, 3, 1)) < RTOL


@pytest.mark.parametrize('height, width', [(4, 4), (5, 3)])
def test_decoded_images_equal_those_of_diffusers(pair, height, width):
  theirs, params, _, decode = pair
  latents = np.random.default_rng(0).standard_normal((2, height, width, 4)).astype(np.float32)
  with torch.no_grad():
    expected = theirs.decode(torch.from_numpy(latents.transpose(0, 3, 1, 2))).sample.numpy()
  images = decode({'params': params}, latents)
  assert relative_error(images, expected.transpose(0, 2, 3, 1)) < RTOL


def test_log_variance_is_clipped_at_both_ends(pair):
  _, params, encode, _ = pair
  bias = np.array([0, 0, 0, 0, 1e3, -1e3, 0, 0], np.float32)
  params = {**params, 'quant_conv': {**params['quant_conv'], 'bias': bias}}
  _, logvar = encode({'params': params}, np.zeros((1, 32, 32, 3), np.float32))
  assert np.all(logvar[..., 0] == 20) and np.all(logvar[..., 1] == -30)


def test_each_image_is_encoded_and_decoded_on_its_own(pair):
  """Editing one image changes no other: the batch may be cut into chunks at will."""
  _, params, encode, decode = pair
  images = np.random.default_rng(0).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
  edited = images.copy()
  edited[1] = -edited[1]
  variables = {'params': params}
  before, after = (np.asarray(decode(variables, encode(variables, x)[0])) for x in (images, edited))
  np.testing.assert_array_equal(before[[0, 2]], after[[0, 2]])
  assert np.abs(before[1] - after[1]).max() > 1e-3


def test_bfloat16_compute_keeps_parameters_and_outputs_float32(pair):
  _, params, encode, _ = pair
  ours = vae.AutoencoderKL(dtype=jnp.bfloat16, **SMALL)
  images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
  variables = jax.eval_shape(ours.init, jax.random.key(0), images)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
  half_encode = jax.jit(functools.partial(ours.apply, method='encode'))
  mean, _ = half_encode({'params': params}, images)
  exact, _ = encode({'params': params}, images)
  assert mean.dtype == jnp.float32
  assert 1e-6 < relative_error(mean, np.asarray(exact)) < 0.1


def test_a_size_that_the_levels_cannot_halve_is_refused(pair):
  _, params, encode, _ = pair
  with pytest.raises(ValueError, match='36x32 pixels do not divide by 8'):
    encode({'params': params}, np.zeros((1, 36, 32, 3), np.float32))
