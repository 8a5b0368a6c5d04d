"""The released sizes compute what diffusers and transformers do: relative L2 at most 1e-4.

Each network is run in torch first, by a process that is gone when JAX starts (tests/full_size.py).
"""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import common
from i2vgen_jax.models import clip, unet3d, vae
from i2vgen_jax.pretrained import clip_names, files, tensors, unet_names, vae_names

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[3]
FAST_COMPILE = {'xla_backend_optimization_level': 0}


def run_torch(network, folder):
  """Returns (weights, inputs, outputs) of a network, computed by torch."""
  command = [sys.executable, '-m', 'tests.full_size', network, str(folder)]
  subprocess.run(command, cwd=ROOT, check=True)
  inputs, outputs = (
    safetensors.numpy.load_file(folder / f'{name}.safetensors') for name in ('inputs', 'outputs')
  )
  weights = files.open_checkpoint(folder / 'weights.safetensors')
  os.unlink(folder / 'weights.safetensors')  # What is open stays readable; the disk is given back.
  return weights, inputs, outputs


def load(module, name_of, weights, *inputs):
  abstract = jax.eval_shape(module.init, jax.random.key(0), *inputs)['params']
  return tensors.from_formats(weights, abstract, name_of)[0]


def channels_last(x):
  return np.moveaxis(x, 1, -1)


def relative_error(ours, theirs):
  difference = np.asarray(ours, np.float64) - theirs
  return np.linalg.norm(difference) / np.linalg.norm(theirs)


@pytest.fixture(scope='module')
def released_unet(tmp_path_factory):
  """(unet without a dtype, params, inputs, prediction of diffusers)."""
  weights, inputs, outputs = run_torch('unet', tmp_path_factory.mktemp('unet'))
  config = dict(common.release().unet, conditioners=common.CONDITIONERS, remat='none')
  unet = functools.partial(unet3d.UNet3D, **config)
  conditioning = dict(
    text=inputs['encoder_hidden_states'],
    image_embedding=inputs['image_embeddings'][:, 0],
    image_latents=channels_last(inputs['image_latents'][:, :, 0]),
    fps=inputs['fps'],
  )
  ours = channels_last(inputs['sample']), inputs['timestep'], conditioning
  params = load(unet(), unet_names.name_of, weights, *ours)
  return unet, params, ours, channels_last(outputs['prediction'])


def predict(unet, params, inputs):
  return jax.jit(unet.apply, compiler_options=FAST_COMPILE)({'params': params}, *inputs)


def test_released_unet_equals_diffusers(released_unet):
  unet, params, inputs, expected = released_unet
  error = relative_error(predict(unet(), params, inputs), expected)
  print(f'U-Net: relative L2 {error:.2e}')
  assert error <= 1e-4


def test_released_unet_in_bfloat16_stays_near_float32(released_unet):
  """2 % where each product is rounded (docs/precision.md), and some room."""
  unet, params, inputs, expected = released_unet
  error = relative_error(predict(unet(dtype=jnp.bfloat16), params, inputs), expected)
  print(f'U-Net, bfloat16: relative L2 {error:.2e}')
  assert error <= 0.03


def test_sd_vae_equals_diffusers(tmp_path):
  weights, inputs, outputs = run_torch('vae', tmp_path)
  module = vae.AutoencoderKL(**common.release().vae.model)
  images = channels_last(inputs['images'])
  params = load(module, vae_names.name_of, weights, images)
  mean, logvar = jax.jit(functools.partial(module.apply, method='encode'))(
    {'params': params}, images
  )
  expected_mean = channels_last(outputs['mean'])
  decoded = jax.jit(functools.partial(module.apply, method='decode'))(
    {'params': params}, expected_mean
  )
  errors = dict(
    mean=relative_error(mean, expected_mean),
    logvar=relative_error(logvar, channels_last(outputs['logvar'])),
    decoded=relative_error(decoded, channels_last(outputs['decoded'])),
  )
  print(f'VAE: relative L2 {errors}')
  assert max(errors.values()) <= 1e-4, errors


def test_vit_h_text_tower_equals_transformers(tmp_path):
  weights, inputs, outputs = run_torch('text_encoder', tmp_path)
  module = clip.CLIPText(**common.release().text_encoder.model)
  params = load(module, clip_names.text_name_of, weights, inputs['token_ids'])
  states = jax.jit(module.apply)({'params': params}, inputs['token_ids'])
  error = relative_error(states, outputs['states'])
  print(f'CLIP text: relative L2 {error:.2e}')
  assert error <= 1e-4


def test_vit_h_vision_tower_equals_transformers(tmp_path):
  weights, inputs, outputs = run_torch('image_encoder', tmp_path)
  module = clip.CLIPVision(**common.release().image_encoder.model)
  pixels = channels_last(inputs['pixels'])
  params = load(module, clip_names.vision_name_of, weights, pixels)
  error = relative_error(jax.jit(module.apply)({'params': params}, pixels), outputs['embedding'])
  print(f'CLIP vision: relative L2 {error:.2e}')
  assert error <= 1e-4
