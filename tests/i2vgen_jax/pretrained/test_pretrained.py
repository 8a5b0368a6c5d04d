"""Parameters to named tensors and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch

from i2vgen_jax.models import clip, vae
from i2vgen_jax.pretrained import clip_names, files, tensors, vae_names

CASES = {
  'vae': (
    vae.AutoencoderKL(block_channels=(8, 16), layers_per_block=1, norm_groups=4),
    jnp.zeros((1, 16, 16, 3)),
    vae_names.name_of,
  ),
  'text': (
    clip.CLIPText(20, 8, 16, num_layers=2, num_heads=2, max_length=8),
    np.zeros((1, 8), np.int32),
    clip_names.text_name_of,
  ),
  'vision': (
    clip.CLIPVision(8, 16, 2, 2, patch_size=4, image_size=8, projection_dim=6),
    jnp.zeros((1, 8, 8, 3)),
    clip_names.vision_name_of,
  ),
}


def make(case):
  module, inputs, name_of = CASES[case]
  rng = np.random.default_rng(0)
  abstract = jax.eval_shape(module.init, jax.random.key(0), inputs)['params']
  params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), abstract)
  return params, name_of


@pytest.mark.parametrize('case', CASES)
def test_to_torch_and_back_returns_every_bit(case):
  params, name_of = make(case)
  restored = tensors.from_formats(tensors.to_torch(params, name_of), params, name_of)[0]
  assert jax.tree.structure(restored) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, restored, params)


@pytest.mark.parametrize(
  'shape, torch_shape',
  [
    ((5,), (5,)),
    ((2, 5), (5, 2)),
    ((3, 2, 5), (5, 2, 3)),
    ((3, 4, 2, 5), (5, 2, 3, 4)),
    ((3, 1, 1, 2, 5), (5, 2, 3, 1, 1)),
  ],
)
def test_kernels_swap_input_and_output_and_put_the_window_last(shape, torch_shape):
  leaf = 'kernel' if len(shape) > 1 else 'bias'
  params = {'conv': {leaf: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}}
  out = tensors.to_torch(params, tensors.torch_name)
  (value,) = out.values()
  assert value.shape == torch_shape
  if len(shape) > 1:
    np.testing.assert_array_equal(value[4, 1].ravel(), params['conv'][leaf][..., 1, 4].ravel())


def test_list_entries_and_leaves_get_torch_names():
  assert tensors.torch_name('up_blocks_0/resnets_12/conv1/kernel') == (
    'up_blocks.0.resnets.12.conv1.weight'
  )
  assert tensors.torch_name('to_out_0/bias') == 'to_out.0.bias'
  assert clip_names.text_name_of('final_layer_norm/scale') == 'text_model.final_layer_norm.weight'
  assert clip_names.vision_name_of('visual_projection/kernel') == 'visual_projection.weight'
  assert clip_names.vision_name_of('embeddings/class_embedding') == (
    'vision_model.embeddings.class_embedding'
  )


def test_one_error_names_all_missing_unexpected_and_misshapen_tensors():
  params, name_of = make('vae')
  state = tensors.to_torch(params, name_of)
  del state['encoder.conv_in.bias']
  state['decoder.conv_in.weight'] = state['decoder.conv_in.weight'][:, :3]
  state['discriminator.weight'] = np.zeros(3, np.float32)
  with pytest.raises(ValueError) as error:
    tensors.from_formats(state, params, name_of)[0]
  message = str(error.value)
  assert '1 missing:\n  encoder.conv_in.bias' in message
  assert '1 unexpected:\n  discriminator.weight' in message
  assert '1 misshapen:\n  decoder.conv_in.weight: (16, 3, 3, 3), model has (16, 4, 3, 3)' in message


def test_half_precision_tensors_become_the_models_dtype():
  params, name_of = make('vision')
  state = {name: x.astype(np.float16) for name, x in tensors.to_torch(params, name_of).items()}
  restored = tensors.from_formats(state, jax.eval_shape(lambda: params), name_of)[0]
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(restored))


def test_two_parameters_of_one_name_are_refused():
  with pytest.raises(ValueError, match="called 'same'"):
    tensors.to_torch({'a': np.zeros(1), 'b': np.zeros(1)}, lambda path: 'same')


@pytest.mark.parametrize('keep', [4, 200, -1])
def test_a_file_cut_short_is_named_in_a_value_error(tmp_path, keep):
  params, name_of = make('vae')
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(tensors.to_torch(params, name_of), path)
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(ValueError, match='model.safetensors. is not a whole safetensors file'):
    files.open_checkpoint(path)


def test_a_file_that_is_not_there_is_named_in_a_value_error(tmp_path):
  with pytest.raises(ValueError, match='No file .*absent.safetensors'):
    files.open_checkpoint(tmp_path / 'absent.safetensors')


@pytest.mark.parametrize(
  'text',
  [
    b'[' * 200_000,
    b'\xff\xfe\0',
    b'[1]',
    b'{"weight_map": ["a"]}',
    b'{"weight_map": {"a": {"b": "c"}}}',
    b'{"weight_map": {"a": "/etc/passwd"}}',
    b'{"weight_map": {"a": "../model.safetensors"}}',
    b'{"weight_map": {"a": "..\\\\model.safetensors"}}',
    b'{"weight_map": {"a": ".."}}',
    b'{"weight_map": {"a": "m\\u0000"}}',
    b'{"weight_map": {"a": "%s"}}' % (b'x' * 300),
  ],
  ids=lambda text: text[:40].decode(errors='replace'),
)
def test_an_index_of_shards_is_whole_and_names_files_beside_it(tmp_path, text):
  path = tmp_path / 'in' / 'model.safetensors.index.json'
  path.parent.mkdir()
  path.write_bytes(text)
  (tmp_path / 'model.safetensors').touch()
  with pytest.raises(ValueError, match=r'index of shards|beside the index|that are not there'):
    files.open_checkpoint(path)


@pytest.mark.parametrize('kind', ['F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'C64'])
def test_a_type_without_meaning_here_is_named(tmp_path, kind):
  size = 8 if kind == 'C64' else 1
  header = json.dumps({'a': {'dtype': kind, 'shape': [1], 'data_offsets': [0, size]}}).encode()
  path = tmp_path / 'model.safetensors'
  path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(size))
  with pytest.raises(ValueError, match=f'a is of {kind}; save it in float16 or float32'):
    np.asarray(files.open_checkpoint(path)['a'])


def test_torchs_tensors_are_dense_and_no_larger_than_their_file(tmp_path):
  path = tmp_path / 'model.pth'
  zeros = torch.zeros(3, 4)
  for odd, message in (
    (torch.zeros(1).expand(10**6, 10**6), 'larger than the whole file'),
    (zeros.to_sparse(), 'save it dense'),
    (torch.zeros(3, 4, device='meta'), 'save it dense'),
    (zeros.to(torch.complex64), 'of torch.complex64'),
    (zeros.to(torch.float8_e4m3fn), 'of torch.float8'),
  ):
    torch.save({'a': odd}, path)
    with pytest.raises(ValueError, match=message):
      files.open_checkpoint(path)
  for usual in (torch.nn.Parameter(zeros), zeros.t(), zeros[:1].expand(3, 4), zeros.bfloat16()):
    torch.save({'a': usual}, path)
    assert np.asarray(files.open_checkpoint(path)['a']).shape == tuple(usual.shape)
