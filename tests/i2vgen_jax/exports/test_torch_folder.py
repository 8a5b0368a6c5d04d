"""The folder for torch alone: its networks, tokenizers, pictures and samplers do as ours."""

import ast
import collections
import importlib.util
import json
import subprocess
import sys
import types

import jax
import numpy as np
import PIL.Image
import pytest

from configs import common
from data_pipelines.stream import decoder, fields
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.diffusion import sampler, schedule
from i2vgen_jax.exports import torch_folder
from i2vgen_jax.models import lora
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.pretrained import tokenizers
from i2vgen_jax.sampling import generate as generate_lib
from tests import tiny
from tests.configs.test_configs import CONFIGS
from tests.i2vgen_jax.test_export import (
  TOKENIZER,
  channels_first,
  random_params,
  relative_error,
  small_config,
)

torch = pytest.importorskip('torch')

FAST_COMPILE = {'xla_backend_optimization_level': 0}
# float32 rounding, largest difference over largest output: the bar of this export.
BAR = 2e-6
# Four levels add up more of it, on both sides: base at a fifth of its width is 2.2e-6 apart, as is
# diffusers' own class at full width. Beside the export in float64 ours is off by 1.8e-6 to 2.0e-6,
# the export in float32 by 1.3e-6.
DEEP_BAR = 3e-6
EVERY_KIND = tuple(dict(kind=kind) for kind in torch_folder.CONDITIONERS)
CAPTIONS = (
  'a red circle moves left',
  "Zürich, 2024: it's 3 words_more than the tower has places for!",
  'moves   a blue—square 你好',
  '',
)
NEGATIVE_PROMPT = 'a blue square'
REQUEST = dict(height=32, width=48, fps=6.0)
# Refuses all that is not torch's, safetensors' or Python's own.
ALONE = """
import sys
class Refuse:
  def find_spec(self, name, path=None, target=None):
    top = name.partition('.')[0]
    own = top in sys.stdlib_module_names or top.startswith('_sysconfigdata')
    if top not in ALLOWED and not own:
      raise ModuleNotFoundError(f'{name} is out of reach')
ALLOWED = set(sys.argv[2].split(','))
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import torch, modeling
given = torch.load(f'{sys.argv[3]}/given.pt')
video = modeling.from_pretrained(sys.argv[1]).sample(**given)
torch.save(video, f'{sys.argv[3]}/video.pt')
"""
ALLOWED = (
  'torch,torchgen,functorch,safetensors,packaging,typing_extensions,sympy,mpmath,networkx,jinja2,'
  'markupsafe,fsspec,filelock,modeling,_distutils_hack,setuptools'
)


def with_bucket(config, **size):
  config.data.directories = dict(videos='corpora/videos')
  config.data.buckets = dict(
    videos=common.bucket('video', 4, fps=8, batch_size=1, **(dict(height=32, width=48) | size))
  )
  return config


def export(folder, config, adapters=None):
  """(session, parameters of the U-Net and the frozen networks, modeling, the model) of a config."""
  session = session_lib.build(config)
  inputs = session.smallest_unet_inputs()
  unet = random_params(jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)['params'], 1)
  frozen = random_params(frozen_lib.abstract(session.networks), 2)
  torch_folder.export_torch(folder, session, (frozen | {'unet': unet}).get)
  modeling = load_modeling(folder)
  model = modeling.from_pretrained(folder)
  return types.SimpleNamespace(
    session=session, unet=unet, frozen=frozen, modeling=modeling, model=model, folder=folder
  )


def load_modeling(folder):
  spec = importlib.util.spec_from_file_location('modeling', folder / 'modeling.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def every_condition(t5_tokenizer, **unet):
  config = with_bucket(small_config(conditioners=EVERY_KIND, temporal_in_heads=2, **unet))
  config.t5 = tiny.t5(t5_tokenizer)
  config.negative_prompt = NEGATIVE_PROMPT
  return config


@pytest.fixture(scope='module')
def exported(tmp_path_factory, t5_tokenizer):
  """A model with every condition there is, and what the refinement of VGen has besides."""
  config = every_condition(t5_tokenizer, row_margin=1, free_u=((1.1, 0.6), (1.2, 0.4)))
  return export(tmp_path_factory.mktemp('torch') / 'out', config)


def check_prediction(exported, height, width, bar=BAR):
  """Our U-Net and the export's on the same inputs, of an odd size further down."""
  session, rng = exported.session, np.random.default_rng(0)
  factor = session.autoencoder.downsampling
  shapes = session.unet_inputs(3, height * factor, width * factor, batch_size=2)
  latents, _, conditioning = jax.tree.map(
    lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes
  )
  if 'fps' in conditioning:
    conditioning['fps'] = np.array([8, 16], np.float32)
  if 'motion' in conditioning:
    conditioning['motion'] = np.array([[0.05, 1], [0, 0]], np.float32)
  timesteps = np.array([7, 801])
  apply = jax.jit(session.unet.apply, compiler_options=FAST_COMPILE)
  ours = apply({'params': exported.unet}, latents, timesteps, conditioning)
  theirs = {
    name: channels_first(value) if value.ndim == 4 else torch.from_numpy(value)
    for name, value in conditioning.items()
  }

  def error_of(dtype):
    latents_BCFHW, conditions = jax.tree.map(
      lambda value: value.to(dtype), (channels_first(latents), theirs)
    )
    with torch.no_grad():
      unet = exported.model.unet.to(dtype)
      prediction = unet(latents_BCFHW, torch.from_numpy(timesteps), conditions)
    return relative_error(ours, np.moveaxis(prediction.numpy(), 1, -1))

  exactly, rounded = error_of(torch.float64), error_of(torch.float32)
  print(f'{rounded:.1e} of the largest output; {exactly:.1e} of an export in float64')
  assert max(exactly, rounded) <= bar


def test_the_exported_u_net_predicts_what_ours_does_with_every_condition(exported):
  check_prediction(exported, 7, 10)


def shrunk(name, t5_tokenizer):
  """A shipped config with its own levels, layers, heads and conditions, at a fifth of its width."""
  config = CONFIGS[name]()
  config.update(dtype='float32', tokenizer=TOKENIZER, negative_prompt='')
  config.unet.remat = 'none'
  if max(config.unet.block_channels) > 64:
    small = small_config()
    config.unet.block_channels = tuple(width // 5 for width in config.unet.block_channels)
    config.unet.context_dim = small.text_encoder.model.hidden_size
    for network in ('text_encoder', 'image_encoder'):
      config[network] = small[network]
    config.vae.model = small.vae.model
  if 't5' in config:
    config.t5 = tiny.t5(t5_tokenizer)
  return config


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_shipped_config_predicts_what_ours_does(name, t5_tokenizer, tmp_path):
  check_prediction(export(tmp_path / 'out', shrunk(name, t5_tokenizer)), 12, 20, DEEP_BAR)


def picture(height, width, seed=0):
  values = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
  return PIL.Image.fromarray(values).resize((width, height), PIL.Image.Resampling.BICUBIC)


@pytest.mark.parametrize('inversion_steps', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_with_torch_alone_makes_the_video_that_ours_does(
  inversion_steps, t5_tokenizer, tmp_path
):
  """From captions, pictures and a video that is refined, with guidance rescaled, on to pixels."""
  config = every_condition(t5_tokenizer, block_channels=(16,), attention_levels=(True,))
  config.sample.update(sampler='dpmpp_2m', spacing='trailing')
  config.refine.update(levels=600, inversion_steps=inversion_steps, height=16, width=24)
  exported = export(tmp_path / 'out', config)
  picture(40, 56, seed=1).save(tmp_path / 'last.png')
  settings = dict(num_steps=2, guidance_scale=3.0, guidance_rescale=0.5)
  noise_BFHWC = generate_lib.start_noise(exported.session, 0, 1, (4, 32, 48))
  # Twice as large it is no tie for rounding.
  video_FHWC = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), np.uint8)
  given = dict(
    caption=CAPTIONS[0],
    image=torch.from_numpy(np.array(picture(80, 72))),
    last_image=torch.from_numpy(np.array(picture(40, 56, seed=1))),
    video=torch.from_numpy(video_FHWC),
    noise=torch.from_numpy(np.moveaxis(np.asarray(noise_BFHWC), -1, 1).copy()),
    motion=0.05,
    **settings,
    **REQUEST,
  )
  torch.save(given, tmp_path / 'given.pt')
  done = subprocess.run(
    [sys.executable, '-c', ALONE, exported.folder, ALLOWED, tmp_path],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  theirs = torch.load(tmp_path / 'video.pt').numpy().astype(int)
  expected = ours(exported, settings, tmp_path / 'last.png', noise_BFHWC, video_FHWC).astype(int)
  difference = np.abs(theirs - expected)
  assert expected.std() > 10 and theirs.shape == expected.shape
  assert difference.max() <= 1 and (difference > 0).mean() < 0.001


def ours(exported, settings, last, noise_BFHWC, video_FHWC):
  """Our own video: (F, H, W, 3)."""
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  session = exported.session.on(mesh)
  request = base.Request(
    [picture(80, 72)], [CAPTIONS[0]], **REQUEST, more=dict(last_image=str(last), motion='0.05')
  )
  inputs = generate_lib.Inputs(
    session.of_request(request), session.negative(NEGATIVE_PROMPT), video_FHWC[None]
  )
  chosen = generate_lib.settings(session.config, **settings)
  generate = generate_lib.make_generate(session, **chosen)
  return np.asarray(generate(exported.unet, exported.frozen, inputs, noise_BFHWC)[1][0])


@pytest.mark.parametrize('kind', sampler.KINDS)
@pytest.mark.parametrize('spacing', ['leading', 'trailing', 'linspace'])
def test_sampler_tables_are_ours(exported, kind, spacing):
  ours = schedule.NoiseSchedule.create('cosine', 1000, zero_terminal_snr=True)
  options = dict(spacing=spacing, levels=600, eta=0.3 if kind == 'ddim' else 0.0)
  alphas_cumprod_T = torch.from_numpy(ours.alphas_cumprod_T.copy())
  for num_steps, levels in ((1, None), (7, 600), (20, None)):
    options['levels'] = levels
    if spacing == 'leading' and num_steps == 1:
      with pytest.raises(ValueError, match='where a video is not noise'):
        exported.modeling.make_table(alphas_cumprod_T, num_steps, kind, **options)
      continue
    expected = sampler.make_table(ours, num_steps, kind=kind, **options)
    found = exported.modeling.make_table(alphas_cumprod_T, num_steps, kind, **options)
    assert set(found) == set(expected)
    for name, column in expected.items():
      np.testing.assert_allclose(found[name], column, rtol=1e-9, atol=1e-12, err_msg=name)


def test_settings_that_are_wrong_are_named(exported):
  image = torch.zeros(32, 48, 3, dtype=torch.uint8)
  for settings, message in (
    (dict(steps=3), "unknown settings .'steps'.; known: .*num_steps"),
    (dict(sampler='plms'), "sampler='plms' is unknown; known: ddim"),
    (dict(num_steps=2000), 'num_steps=2000 must lie between 1 and 999'),
    (dict(height=33), r'\(33, 48\) must be multiples of 4'),
  ):
    with pytest.raises(ValueError, match=message):
      exported.model.sample('a', image, last_image=image, **settings)
  with pytest.raises(ValueError, match='this model refines a video: give video='):
    exported.model.sample('a', image, last_image=image, levels=600)
  with pytest.raises(ValueError, match='conditioned on last_frame_latents: give last_image='):
    exported.model.sample('a', image)


def test_tokens_are_those_that_training_reads(exported, t5_tokenizer):
  signals, theirs = exported.session.signals, exported.model.tokenizers
  np.testing.assert_array_equal(theirs['text'](CAPTIONS), signals['text'].tokenize(CAPTIONS))
  spaced = [' '.join(caption.split()) for caption in CAPTIONS]
  ids = signals['t5_text'].tokenize(spaced)
  np.testing.assert_array_equal(theirs['t5_text'](CAPTIONS), ids)
  assert tokenizers.t5_pieces(t5_tokenizer)['end'] == 1


@pytest.mark.parametrize('size', [(80, 72), (21, 300), (9, 11)])
@pytest.mark.parametrize('height', [32, 48])
def test_pictures_are_cut_as_in_training(exported, size, height):
  """To the bit, also where CLIP's square is of the copy that covers the video."""
  modeling, image = exported.modeling, picture(*(8 * side for side in size)).resize(size[::-1])
  pixel_fields = fields.Video(), fields.ClipImage(32)
  batch = decoder.of_pictures(pixel_fields, [image], height, 48)
  pixels = modeling.to_pixels(image)
  covering = modeling.cover(pixels, height, 48)
  frame = modeling.center_crop(covering, height, 48)
  np.testing.assert_array_equal(frame, batch['video'][0, 0])
  square = modeling.central_square(pixels, 32, covering)
  np.testing.assert_array_equal(square, batch['clip_image'][0])


def test_adapters_beside_the_weights_compute_as_merged_ones(tmp_path):
  config = with_bucket(small_config())
  config.lora.update(
    rank=3, alpha=5.0, match=r'to_q/kernel$|temp_conv/conv1_2/kernel$|conv1/kernel'
  )
  session = session_lib.build(config)
  inputs = session.smallest_unet_inputs()
  params = random_params(jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)['params'], 1)
  frozen = random_params(frozen_lib.abstract(session.networks), 2)
  adapters, merged = params[lora.KEY], lora.merge(params, 5.0)
  without = {name: block for name, block in params.items() if name != lora.KEY}
  torch_folder.export_torch(tmp_path / 'merged', session, (frozen | {'unet': merged}).get)
  torch_folder.export_torch(
    tmp_path / 'beside', session, (frozen | {'unet': without}).get, adapters=adapters
  )
  modeling = load_modeling(tmp_path / 'beside')
  expected = modeling.from_pretrained(tmp_path / 'merged').unet.state_dict()
  found = modeling.from_pretrained(tmp_path / 'beside').unet.state_dict()
  plain = modeling.from_pretrained(tmp_path / 'beside', lora_scale=0).unet.state_dict()
  changed = [name for name, value in expected.items() if not torch.equal(value, plain[name])]
  assert len(changed) == len(jax.tree.leaves(adapters)) // 2
  for name, value in expected.items():
    torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


def test_a_condition_without_a_class_in_torch_is_refused_and_leaves_nothing(tmp_path):
  config = with_bucket(small_config())
  lines = (
    *config.unet.conditioners,
    dict(kind='tests.i2vgen_jax.conditions.test_own_condition:Brightness'),
  )  # noqa: E501
  config.unet.conditioners = lines
  session = session_lib.build(config)
  with pytest.raises(
    ValueError, match='Brightness.*which torch_model/conditioners.py has no class'
  ):
    torch_folder.export_torch(tmp_path / 'out', session, {}.get)
  assert not list(tmp_path.iterdir())


def test_the_code_is_every_part_in_one_file_and_names_nothing_twice(exported):
  tree = ast.parse((exported.folder / 'modeling.py').read_text())
  names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
  assert [name for name, count in collections.Counter(names).items() if count > 1] == []
  parts = {path.stem for path in torch_folder.CODE.glob('*.py')} - {'__init__'}
  assert parts == set(torch_folder.PARTS)
  assert set(exported.modeling.CONDITIONERS) == set(torch_folder.CONDITIONERS)
  imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
  assert not [line for line in map(ast.unparse, imports) if 'i2vgen_jax' in line]
  assert json.loads((exported.folder / 'config.json').read_text())['sample']['frames'] == 4
