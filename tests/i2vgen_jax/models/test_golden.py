"""Our U-Net with VGen's weights gives what VGen's own code gave: outputs, loss and gradients.

The recorded run and the recipe of its weights are described in golden/README.md.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.models import unet3d
from i2vgen_jax.pretrained import tensors, unet_names
from tests import tiny
from tests.golden import recorded


def vgen_weights(params, unet):
  """VGen's state_dict by the recipe: each tensor follows from its name and shape."""
  abstract = tensors.to_torch(params, unet_names.name_of, unet_names.vgen(unet).slot_of)
  names = [row['vgen_key'] for row in recorded.released_tensors()]
  return {name: draw(name, abstract[name].shape) for name in names}


def draw(name, shape):
  rng = np.random.Generator(np.random.PCG64([zlib.crc32(name.encode()), 1]))
  if len(shape) == 1:
    return (name.endswith('weight') + 0.1 * rng.standard_normal(shape)).astype(np.float32)
  return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture(scope='module')
def vgen():
  """(U-Net, its parameters out of VGen's names)."""
  unet = unet3d.UNet3D(tiny.RELEASED, block_channels=(32, 64, 128, 128), head_dim=16)
  inputs, _ = case('image')
  abstract = jax.eval_shape(unet.init, jax.random.key(0), *inputs)['params']
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract)
  params, found = tensors.from_formats(
    vgen_weights(zeros, unet), abstract, unet_names.name_of, unet_names.formats(unet)
  )
  assert found.name == 'I2VGen-XL of VGen'
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 18_078_280
  return unet, params


def case(name):
  """((latents, timesteps, conditioning), recorded arrays), in our layout."""
  arrays = np.load(recorded.FOLDER / 'vgen_small.npz')
  arrays = {key.split('/')[1]: arrays[key] for key in arrays if key.startswith(f'{name}/')}
  for key in ('x', 'target', 'output', 'image_latents'):
    arrays[key] = np.moveaxis(arrays[key], 1, -1)
  conditioning = dict(
    text=arrays['text'],
    image_embedding=arrays['image_embedding'][:, 0],
    image_latents=arrays['image_latents'][:, 0],
    fps=arrays['fps'],
  )
  return (arrays['x'], arrays['t'], conditioning), arrays


FAST_COMPILE = {'xla_backend_optimization_level': 0}
CASES = pytest.mark.parametrize('name', ['video', 'image'])


def assert_recorded(output, arrays):
  worst = np.abs(output - arrays['output']).max()
  assert worst <= 2e-5 * np.abs(arrays['output']).max()


@pytest.mark.parametrize('name', ['video', pytest.param('image', marks=pytest.mark.slow)])
def test_output_is_that_recorded_of_vgen(vgen, name):
  unet, params = vgen
  inputs, arrays = case(name)
  apply = jax.jit(unet.apply, compiler_options=FAST_COMPILE)
  assert_recorded(apply({'params': params}, *inputs), arrays)


@pytest.mark.slow
@CASES
def test_loss_and_gradients_are_those_recorded_of_vgen(vgen, name):
  unet, params = vgen
  inputs, arrays = case(name)

  def loss(params):
    output = unet.apply({'params': params}, *inputs)
    return jnp.mean(jnp.square(output - arrays['target'])), output

  gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST_COMPILE)
  (value, output), gradients = gradient(params)
  assert_recorded(output, arrays)
  np.testing.assert_allclose(value, arrays['loss'], rtol=1e-5)
  norms = gradient_norms(gradients, unet)
  for key, expected in zip(arrays['grad_keys'], arrays['grad_norms'], strict=True):
    # 1e-7: keys of a softmax over one frame have no gradient but rounding.
    np.testing.assert_allclose(norms[str(key)], expected, rtol=1e-4, atol=1e-7, err_msg=key)


def gradient_norms(gradients, unet):
  """By VGen's names. A gradient goes the other way through a gain than its parameter does."""
  slot_of = unet_names.vgen(unet).slot_of
  gain = np.reshape(slot_of('conv_in.weight').gains, (1, 1, -1, 1))
  kernel = gradients['conv_in']['kernel'] * gain**2  # `to_torch` divides by the gain.
  gradients = gradients | {'conv_in': gradients['conv_in'] | {'kernel': kernel}}
  named = tensors.to_torch(gradients, unet_names.name_of, slot_of)
  return {name: np.linalg.norm(value.astype(np.float64)) for name, value in named.items()}
