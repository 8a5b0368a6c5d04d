"""Weights in and out through the commands' functions: every way in ends in the same parameters."""

import collections
import json
import shutil
import types

import diffusers
import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from i2vgen_jax import load, train
from i2vgen_jax import session as session_lib
from i2vgen_jax.exports import diffusers_folder, vgen_file
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import files, tensors, unet_names
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.stored import run_config, trained
from i2vgen_jax.training import warm_start
from tests import tiny
from tests.i2vgen_jax.test_export import random_params, random_unet, small_config, vgen_config

UNET_FILE = 'diffusion_pytorch_model.safetensors'


@pytest.fixture(scope='module')
def release(tmp_path_factory):
  """A small release: diffusers' folder, and the U-Net's tensors in both releases' names."""
  folder = tmp_path_factory.mktemp('release')
  config = small_config()
  built = session_lib.build(config)
  key = jax.random.key(0)
  unet_params = random_params(
    jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params'], seed=1
  )
  frozen_params = random_params(frozen_lib.abstract(built.networks), seed=2)
  read_params = (frozen_params | {'unet': unet_params}).get
  diffusers_folder.export_diffusers(folder / 'pipeline', config, read_params)
  slot_of = unet_names.vgen(built.unet).slot_of
  return types.SimpleNamespace(
    folder=folder,
    pipeline=folder / 'pipeline',
    config=config,
    named=tensors.to_torch(unet_params, unet_names.name_of),
    vgen=tensors.to_torch(unet_params, unet_names.name_of, slot_of),
  )


def read_tensors(path):
  return {name: np.asarray(value) for name, value in files.open_checkpoint(path).items()}


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def as_torch(named):
  return collections.OrderedDict((name, torch.from_numpy(x)) for name, x in named.items())


def loaded_unet(release, path):
  """The parameters that `load` makes of a U-Net's file."""
  mesh = mesh_lib.make_mesh(release.config.mesh)
  return load.read_unet(session_lib.build(release.config).on(mesh), path)


def named_unet(release, path):
  return tensors.to_torch(loaded_unet(release, path), unet_names.name_of)


def test_a_pipeline_comes_out_as_it_went_in_bit_for_bit(release, tmp_path):
  load.load(release.config, load.find_parts(str(release.pipeline)), tmp_path / 'loaded')
  session = session_lib.open_run(tmp_path / 'loaded')
  config = session.config
  params, step = trained.load_params(tmp_path / 'loaded', session.abstract_params())
  assert step == 0
  frozen = frozen_lib.load(config, session.networks, session.mesh, tmp_path / 'loaded')
  diffusers_folder.export_diffusers(tmp_path / 'out', config, (frozen | {'unet': params}).get)
  written = sorted(path.relative_to(tmp_path / 'out') for path in (tmp_path / 'out').rglob('*.*'))
  assert written == sorted(
    path.relative_to(release.pipeline) for path in release.pipeline.rglob('*.*')
  )
  for path in written:
    one, other = tmp_path / 'out' / path, release.pipeline / path
    if path.suffix == '.safetensors':
      assert_same(read_tensors(one), read_tensors(other))
    else:
      assert one.read_text() == other.read_text(), path


def test_vgen_checkpoint_comes_out_as_it_went_in_bit_for_bit(tmp_path):
  config = vgen_config()
  built = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  slot_of = unet_names.vgen(built.unet).slot_of
  vgen = tensors.to_torch(random_unet(config), unet_names.name_of, slot_of)
  torch.save({'state_dict': as_torch(vgen), 'step': 854500}, tmp_path / 'i2vgen_xl_00854500.pth')
  params = load.read_unet(built, tmp_path / 'i2vgen_xl_00854500.pth')
  vgen_file.export_vgen(tmp_path / 'out.pth', config, params, step=854500)
  assert_same(read_tensors(tmp_path / 'out.pth'), vgen)


def test_averaged_weights_of_vgens_ranks_are_put_together(release, tmp_path):
  """Rank r of n keeps every n-th tensor from the r-th on."""
  items = list(as_torch(release.vgen).items())
  paths = [tmp_path / f'ema_00000100_rank{rank:04d}.pth' for rank in range(3)]
  for rank, path in enumerate(paths):
    torch.save({'state_dict': collections.OrderedDict(items[rank::3]), 'step': 100}, path)
  assert_same(named_unet(release, paths[2]), release.named)
  paths[1].unlink()
  with pytest.raises(ValueError, match=r'ranks \[1\] are not beside it'):
    named_unet(release, paths[0])


def write_sharded(folder, named, variant=''):
  names = list(named)
  weight_map = {}
  for i in range(3):
    file = f'diffusion_pytorch_model{variant}-{i + 1:05d}-of-00003.safetensors'
    safetensors.numpy.save_file({name: named[name] for name in names[i::3]}, folder / file)
    weight_map |= dict.fromkeys(names[i::3], file)
  index = folder / f'{UNET_FILE}.index{variant}.json'
  index.write_text(json.dumps(dict(weight_map=weight_map)))


def write_bin(folder, named):
  torch.save(as_torch(named), folder / 'diffusion_pytorch_model.bin')


def write_old_bin(folder, named):
  path = folder / 'diffusion_pytorch_model.bin'
  torch.save(as_torch(named), path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
  'write',
  [write_sharded, lambda *args: write_sharded(*args, '.fp16'), write_bin, write_old_bin],
  ids=['shards', 'shards of a variant', 'bin', 'bin from before torch 1.6'],
)
def test_every_way_to_store_a_network_is_read(release, tmp_path, write):
  write(tmp_path, release.named)
  assert_same(named_unet(release, tmp_path), release.named)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_half_precision_files_give_their_values_in_float32(release, tmp_path, dtype, suffix):
  half = {name: value.to(dtype) for name, value in as_torch(release.named).items()}
  path = tmp_path / f'diffusion_pytorch_model.fp16.{suffix}'
  safetensors.torch.save_file(half, path) if suffix == 'safetensors' else torch.save(half, path)
  found = named_unet(release, tmp_path if suffix == 'safetensors' else path)
  assert_same(found, {name: value.float().numpy() for name, value in half.items()})


def test_full_precision_is_taken_where_a_folder_has_both(release, tmp_path):
  safetensors.numpy.save_file(release.named, tmp_path / UNET_FILE)
  half = {name: value.astype(np.float16) for name, value in release.named.items()}
  safetensors.numpy.save_file(half, tmp_path / 'diffusion_pytorch_model.fp16.safetensors')
  assert_same(named_unet(release, tmp_path), release.named)


def stable_diffusion():
  torch.manual_seed(0)
  unet = diffusers.UNet2DConditionModel(
    block_out_channels=(16, 32),
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
    layers_per_block=1,
    cross_attention_dim=16,
    attention_head_dim=[2, 4],  # Heads, for all that the field's name says.
    norm_num_groups=8,
    use_linear_projection=True,
  )
  for value in unet.parameters():
    value.data += 0.02 * torch.randn_like(value)
  return unet.eval()


@pytest.mark.parametrize(
  'names', ['diffusers', pytest.param('latent-diffusion', marks=pytest.mark.slow)]
)
def test_a_new_unet_gives_frame_by_frame_what_stable_diffusion_does(release, tmp_path, names):
  """With the caption as the whole context; whatever image and frame rate are given besides."""
  theirs = stable_diffusion()
  conditioners = tuple(dict(kind=kind) for kind in ('text', 'image_latents', 'fps'))
  config = small_config(conditioners=conditioners)
  built = session_lib.build(config)
  if names == 'diffusers':
    theirs.save_pretrained(tmp_path / 'unet')
    path = tmp_path / 'unet'
  else:
    slot_of = unet_names.stable_diffusion_ldm(built.unet).slot_of
    state = {slot_of(name).name: value for name, value in theirs.state_dict().items()}
    path = tmp_path / 'v2-1.ckpt'
    others = {'first_stage_model.encoder.conv_in.bias': torch.zeros(3), 'betas': torch.zeros(9)}
    torch.save({'state_dict': state | others, 'global_step': 1}, path)
  params = load.read_unet(built.on(mesh_lib.make_mesh(config.mesh)), path)
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  latents_BFHWC, text_BLD = normal(2, 3, 8, 6, 4), normal(2, 5, 16)
  timesteps_B = np.array([7, 801])
  conditioning = dict(text=text_BLD, image_latents=normal(2, 8, 6, 4), fps=np.array([8, 16]))
  ours = jax.jit(built.unet.apply)({'params': params}, latents_BFHWC, timesteps_B, conditioning)
  with torch.no_grad():
    for frame in range(3):
      expected = theirs(
        torch.from_numpy(latents_BFHWC[:, frame]).permute(0, 3, 1, 2),
        torch.from_numpy(timesteps_B),
        torch.from_numpy(text_BLD),
      ).sample.permute(0, 2, 3, 1)
      worst = np.abs(ours[:, frame] - expected.numpy()).max()
      assert worst <= 1e-5 * expected.abs().max()


def complaint(path, **sizes):
  config = small_config(**sizes)
  built = session_lib.build(config)
  with pytest.raises(ValueError) as error:
    load.read_unet(built.on(mesh_lib.make_mesh(config.mesh)), path)
  return str(error.value)


def test_names_that_do_not_fit_are_listed_in_the_files_own_spelling(release, tmp_path):
  state = as_torch(release.vgen)
  del state['input_blocks.0.1.norm.bias']
  state['hist_embed.weight'] = torch.zeros(3)
  state['out.2.bias'] = torch.zeros(5)
  torch.save({'state_dict': state, 'step': 1}, tmp_path / 'x.pth')
  message = complaint(tmp_path / 'x.pth')
  assert '1 missing:\n  input_blocks.0.1.norm.bias' in message
  assert '1 unexpected:\n  hist_embed.weight' in message
  assert '1 misshapen:\n  out.2.bias: (5,), model has (4,)' in message


def test_another_network_is_told_from_the_known_formats(release, tmp_path):
  shutil.copy(release.pipeline / 'vae' / UNET_FILE, tmp_path)
  message = complaint(tmp_path)
  assert 'none of the known formats: I2VGen-XL of diffusers; I2VGen-XL of VGen' in message


def test_the_tokenizer_of_t5_is_given_by_its_own_flag(release, tmp_path):
  config = release.config.copy_and_resolve_references()
  sources = dict(unet='u.pth', t5_tokenizer=str(tmp_path / 'nowhere'))
  with pytest.raises(ValueError, match='--t5_tokenizer: the config has no block t5'):
    load.load(config, sources, tmp_path / 'out')
  with config.unlocked():
    config.unet.conditioners = (dict(kind='t5_text'), *config.unet.conditioners)
    config.t5 = tiny.t5('')
  with pytest.raises(ValueError, match='nowhere.* is no folder with tokenizer.json'):
    load.load(config, sources, tmp_path / 'out')


def test_a_config_that_no_shape_contradicts_is_still_compared(release):
  """Two heads of eight and four of four have tensors of one shape."""
  message = complaint(release.pipeline / 'unet', head_dim=4, temporal_in_heads=16)
  assert 'attention_head_dim: 8, the config makes 4' in message


def test_the_releases_scaling_slip_is_not_taken_over_and_others_are_refused(release, tmp_path):
  folder = shutil.copytree(release.pipeline, tmp_path / 'pipeline')
  vae_config = json.loads((folder / 'vae/config.json').read_text())
  for value in (0.18125, 0.13):
    (folder / 'vae/config.json').write_text(json.dumps(vae_config | dict(scaling_factor=value)))
    parts = load.find_parts(str(folder))
    if value == 0.18125:
      load.load(release.config, parts, tmp_path / 'loaded')
      assert run_config.read(tmp_path / 'loaded').vae.scaling_factor == 0.18215
    else:
      with pytest.raises(ValueError, match='--config.vae.scaling_factor=0.13'):
        load.load(release.config, parts, tmp_path / 'other')
  assert sorted(path.name for path in tmp_path.iterdir()) == ['loaded', 'pipeline']


class Callback:
  """Not a tensor."""


def test_a_file_with_more_than_tensors_is_not_opened(tmp_path):
  torch.save({'state_dict': {'a': torch.zeros(1)}, 'callbacks': Callback()}, tmp_path / 'x.ckpt')
  with pytest.raises(ValueError, match='holds more than tensors'):
    files.open_checkpoint(tmp_path / 'x.ckpt')


def test_a_torch_file_cut_short_is_named(release, tmp_path):
  torch.save(as_torch(release.named), tmp_path / 'x.pth')
  content = (tmp_path / 'x.pth').read_bytes()
  for keep in (100, len(content) // 2):
    (tmp_path / 'x.pth').write_bytes(content[:keep])
    with pytest.raises(ValueError, match='x.pth'):
      files.open_checkpoint(tmp_path / 'x.pth')


def test_a_missing_shard_is_named(release, tmp_path):
  write_sharded(tmp_path, release.named)
  (tmp_path / 'diffusion_pytorch_model-00002-of-00003.safetensors').unlink()
  with pytest.raises(ValueError, match='not there: diffusion_pytorch_model-00002-of-00003'):
    files.open_checkpoint(tmp_path)


@pytest.mark.slow
def test_a_new_run_starts_from_loaded_weights_and_keeps_what_it_needs(demo_corpus, tmp_path):
  """Through the commands: load, train on from it, sample from both; then the folder may go."""
  config = tiny.get_config(demo_corpus, num_steps=2)
  built = session_lib.build(config)
  key = jax.random.key(3)
  unet_params = random_params(
    jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params'], seed=1
  )
  named = tensors.to_torch(unet_params, unet_names.name_of)
  safetensors.numpy.save_file(named, tmp_path / UNET_FILE)
  load.load(config, {'unet': str(tmp_path / UNET_FILE)}, tmp_path / 'loaded')

  with pytest.raises(ValueError, match='start from them with --config.start'):
    run_config.check(tmp_path / 'loaded', config)
  config.start = str(tmp_path / 'loaded')
  config.tokenizer = config.vae.weights = ''
  config.text_encoder.weights = config.image_encoder.weights = ''
  config.optimizer.peak_learning_rate = 0.0
  assert train.train(config, tmp_path / 'run') == 0
  shutil.rmtree(tmp_path / 'loaded')
  session = session_lib.open_run(tmp_path / 'run')
  params, step = trained.load_params(tmp_path / 'run', session.abstract_params(), 'raw')
  assert step == 2
  assert_same(tensors.to_torch(params, unet_names.name_of), named)
  assert session.load_frozen(tmp_path / 'run').frozen['null']['text'].shape[1] == 16


def test_a_start_of_another_model_is_refused(release, tmp_path):
  config = small_config(head_dim=4, temporal_in_heads=16)
  load.load(release.config, load.find_parts(str(release.pipeline)), tmp_path / 'loaded')
  config.start = str(tmp_path / 'loaded')
  with pytest.raises(ValueError, match='unet.head_dim: 8 -> 4'):
    warm_start.check(config)
