"""VGen's refinement, UNetSD_SR600: its names and shapes, and what its own code computed.

golden/sr600.npz was recorded of VGen's class by golden/make_sr600.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import refine, sr600
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import free_u, unet3d
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import configs, tensors, unet_names
from tests import runs, tiny
from tests.golden import recorded as golden
from tests.i2vgen_jax.models.test_golden import FAST_COMPILE, draw
from tests.i2vgen_jax.test_export import random_params, vgen_config

RECORDED = np.load(golden.FOLDER / 'sr600.npz')
NARROW = dict(head_dim=16, **configs.SR600)
MODELS = {
  'small': dict(block_channels=(32, 64), attention_levels=(True, False), layers_per_block=1),
  'deep': dict(block_channels=(32, 64, 128, 128)),
}
SMALL_FIELDS = (
  'block_channels', 'attention_levels', 'layers_per_block', 'head_dim', 'norm_groups',
  'context_dim', 'remat',
)  # fmt: skip
CASES = pytest.mark.parametrize('name', ['small', pytest.param('deep', marks=pytest.mark.slow)])


def released_config():
  config = sr600.get_config()
  config.tokenizer = 'i2vgen_jax/demo/tokenizer'
  config.text_encoder.model.vocab_size = 856  # The demo tokenizer's.
  return config


def test_names_and_shapes_at_released_size_are_those_of_vgens_class():
  built = session_lib.build(released_config())
  abstract = jax.eval_shape(
    built.unet.init, jax.eval_shape(lambda: jax.random.key(0)), *built.smallest_unet_inputs()
  )['params']
  zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), abstract)
  slot_of = unet_names.vgen(built.unet).slot_of
  ours = {}
  for path, value in sharding.by_path(zeros).items():
    slot = slot_of(unet_names.name_of(path))
    ours[slot.name] = list(slot.shape(tensors._torch_shape(path, value.shape)))
  assert ours == json.loads(str(RECORDED['released']))
  assert len(ours) == 1480
  assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == 1_411_233_860


def recorded(name):
  """(U-Net, parameters out of VGen's names, inputs, arrays in our layout)."""
  arrays = {key.split('/')[1]: RECORDED[key] for key in RECORDED if key.startswith(f'{name}/')}
  for key in ('x', 'target', 'output'):
    arrays[key] = np.moveaxis(arrays[key], 1, -1)
  inputs = arrays['x'], arrays['t'].astype(np.int32), dict(text=arrays['y'])
  unet = unet3d.UNet3D(**(NARROW | MODELS[name] | dict(conditioners=tiny.TEXT)))
  abstract = jax.eval_shape(unet.init, jax.random.key(0), *inputs)['params']
  named = tensors.to_torch(
    jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract),
    unet_names.name_of,
    unet_names.vgen(unet).slot_of,
  )
  stored = {name: draw(name, value.shape) for name, value in named.items()}
  assert set(stored) == set(arrays['grad_keys'])
  params, found = tensors.from_formats(
    stored, abstract, unet_names.name_of, unet_names.formats(unet)
  )
  assert found.name == 'SR600 of VGen'
  back = tensors.to_torch(params, unet_names.name_of, unet_names.vgen(unet).slot_of)
  for key, value in stored.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)
  return unet, params, inputs, arrays


@CASES
def test_output_is_that_recorded_of_vgen(name):
  unet, params, inputs, arrays = recorded(name)
  output = jax.jit(unet.apply, compiler_options=FAST_COMPILE)({'params': params}, *inputs)
  assert np.abs(output - arrays['output']).max() <= 2e-5 * np.abs(arrays['output']).max()


@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
def test_loss_and_gradients_are_those_recorded_of_vgen(name):
  unet, params, inputs, arrays = recorded(name)

  def loss(params):
    return jnp.mean(jnp.square(unet.apply({'params': params}, *inputs) - arrays['target']))

  value, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=FAST_COMPILE)(params)
  np.testing.assert_allclose(value, arrays['loss'], rtol=1e-5)
  named = tensors.to_torch(gradients, unet_names.name_of, unet_names.vgen(unet).slot_of)
  for key, expected in zip(arrays['grad_keys'], arrays['grad_norms'], strict=True):
    norm = np.linalg.norm(named[key].astype(np.float64))
    np.testing.assert_allclose(norm, expected, rtol=1e-4, atol=1e-7, err_msg=key)


@pytest.mark.slow
def test_a_checkpoint_of_vgen_loads_by_command_and_comes_out_bit_for_bit(tmp_path):
  torch = pytest.importorskip('torch')
  config = vgen_config()
  unet = dict(sr600.get_config().unet) | {name: config.unet[name] for name in SMALL_FIELDS}
  # A config file of its own, as the command takes none but files.
  config.unet.update(unet)
  for name in ('vae', 'text_encoder', 'image_encoder'):
    config[name].weights = 'random'
  source = f'import json, ml_collections\n\ndef get_config():\n  return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n'  # noqa: E501
  (tmp_path / 'config.py').write_text(source)
  built = session_lib.build(config)
  key = jax.random.key(0)
  abstract = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  slot_of = unet_names.vgen(built.unet).slot_of
  named = tensors.to_torch(random_params(abstract, seed=1), unet_names.name_of, slot_of)
  content = {name: torch.from_numpy(value.copy()) for name, value in named.items()}
  torch.save({'state_dict': content, 'step': 110000}, tmp_path / 'sr_step_110000_ema.pth')

  done = runs.module(
    'i2vgen_jax.load', f'--config={tmp_path / "config.py"}', f'--output={tmp_path / "loaded"}',
    f'--unet={tmp_path / "sr_step_110000_ema.pth"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'format SR600 of VGen' in done.stderr
  done = runs.module(
    'i2vgen_jax.export', f'--workdir={tmp_path / "loaded"}', '--format=vgen',
    f'--output={tmp_path / "out.pth"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  found = torch.load(tmp_path / 'out.pth')['state_dict']
  assert set(found) == set(content)
  assert all(torch.equal(found[name], value) for name, value in content.items())

  lacking = dict(list(content.items())[1:])
  torch.save({'state_dict': lacking}, tmp_path / 'lacking.pth')
  done = runs.module(
    'i2vgen_jax.load', f'--config={tmp_path / "config.py"}', f'--output={tmp_path / "other"}',
    f'--unet={tmp_path / "lacking.pth"}',
  )  # fmt: skip
  assert done.returncode == 2 and '1 missing' in done.stderr and next(iter(content)) in done.stderr


@pytest.mark.parametrize('height, width', [(5, 4), (2, 7), (1, 3)])
def test_the_lowest_frequencies_are_those_of_the_shifted_spectrums_middle(height, width):
  x = np.random.default_rng(0).standard_normal((1, 2, height, width, 3)).astype(np.float32)
  spectrum = np.fft.fftshift(np.fft.fft2(x, axes=(2, 3)), axes=(2, 3))
  mask = np.zeros((height, width, 1))
  row, column = height // 2, width // 2
  mask[max(row - 1, 0) : row + 1, column - 1 : column + 1] = 1
  expected = np.fft.ifft2(np.fft.ifftshift(spectrum * mask, axes=(2, 3)), axes=(2, 3)).real
  np.testing.assert_allclose(free_u.lowest_frequencies(x), expected, atol=1e-5)


def test_a_refinement_that_vgen_would_compute_otherwise_is_not_exported():
  configs.check_vgen(sr600.get_config())
  with pytest.raises(ValueError, match='unet.row_margin=0 cannot be expressed by VGen'):
    configs.check_vgen(refine.get_config())
  with pytest.raises(ValueError, match='conditioners=.* cannot be expressed by diffusers'):
    configs.unet_config(sr600.get_config())
