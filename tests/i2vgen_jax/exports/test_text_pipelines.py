"""Models of text alone are diffusers' UNet3DConditionModel, out and in."""

import json
import types

import jax
import numpy as np
import PIL.Image
import pytest

from configs import refine
from i2vgen_jax import load
from i2vgen_jax import session as session_lib
from i2vgen_jax.exports import diffusers_folder
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.pretrained import pipelines, sources, tensors, unet_names
from i2vgen_jax.sampling import generate as generate_lib
from tests.i2vgen_jax.test_export import (
  TOKENIZER,
  channels_first,
  random_params,
  relative_error,
  small_config,
)

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

CAPTION = 'a red circle moves left'
# Of configs/refine.py, at a sampler without noise of its own.
SAMPLE = dict(sampler='dpmpp_2m', spacing='trailing')


def text_config(levels=600, **unet):
  config = small_config(conditioners=(dict(kind='text'),), **unet)
  config.refine.update(levels=levels, height=32, width=48)
  config.sample.update(SAMPLE)
  return config


@pytest.fixture(scope='module')
def refinement(tmp_path_factory):
  """Our small refinement with random weights, and diffusers' pipeline read from its export."""
  config = text_config()
  session = session_lib.build(config)
  inputs = session.smallest_unet_inputs()
  unet = random_params(jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)['params'], 1)
  frozen = random_params(frozen_lib.abstract(session.networks), 2)
  # diffusers draws from the posterior: at the lowest variance its draw is the mean.
  frozen['vae']['quant_conv']['kernel'][..., 4:] = 0
  frozen['vae']['quant_conv']['bias'][4:] = -30
  folder = tmp_path_factory.mktemp('refinement') / 'out'
  diffusers_folder.export_diffusers(folder, config, (frozen | {'unet': unet}).get)
  pipeline = diffusers.VideoToVideoSDPipeline.from_pretrained(folder)
  pipeline.set_progress_bar_config(disable=True)
  return types.SimpleNamespace(
    config=config, session=session, unet=unet, frozen=frozen, folder=folder, pipeline=pipeline
  )


def test_the_refinement_at_released_size_has_the_names_and_shapes_of_diffusers_class():
  config = refine.get_config()
  config.tokenizer = TOKENIZER
  config.text_encoder.model.vocab_size = 856  # The demo tokenizer's.
  built = session_lib.build(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  abstract = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  ours = {
    unet_names.name_of(path): tensors._torch_shape(path, leaf.shape)
    for path, leaf in sharding.by_path(abstract).items()
  }
  with torch.device('meta'):
    unet = diffusers.UNet3DConditionModel.from_config(pipelines.unet_config(config))
  assert {name: tuple(value.shape) for name, value in unet.state_dict().items()} == ours
  assert pipelines.name(config) == 'VideoToVideoSDPipeline'


def test_the_exported_refinement_predicts_what_ours_does(refinement):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  latents_BFHWC, text_BLD, timesteps_B = draw(2, 3, 8, 6, 4), draw(2, 16, 16), np.array([7, 599])
  with torch.no_grad():
    theirs = refinement.pipeline.unet(
      channels_first(latents_BFHWC), torch.from_numpy(timesteps_B), torch.from_numpy(text_BLD)
    ).sample
  apply = jax.jit(refinement.session.unet.apply)
  ours = apply({'params': refinement.unet}, latents_BFHWC, timesteps_B, dict(text=text_BLD))
  assert relative_error(ours, np.moveaxis(theirs.numpy(), 1, -1)) <= 2e-6


def test_the_pipeline_refines_a_video_as_we_do(refinement):
  """600 of 1000 levels are its strength of 0.6; 5 steps of all are our 3."""
  video = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), np.uint8)
  generator = torch.Generator().manual_seed(0)
  noise = [torch.randn(4, 4, 8, 12, generator=generator) for _ in range(2)][1]  # After the VAE's.
  theirs = refinement.pipeline(
    CAPTION,
    [PIL.Image.fromarray(frame) for frame in video],
    strength=0.6,
    num_inference_steps=5,
    guidance_scale=3.0,
    negative_prompt='blurry',
    generator=torch.Generator().manual_seed(0),
    output_type='latent',
  ).frames
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  session = refinement.session.on(mesh)
  text = session.signals['text']
  inputs = generate_lib.Inputs(
    {'text': {'token_ids': text.tokenize([CAPTION])}}, session.negative('blurry'), video[None]
  )
  chosen = generate_lib.settings(session.config, num_steps=3, guidance_scale=3.0)
  generate = generate_lib.make_generate(session, **chosen)
  noise_BFHWC = np.moveaxis(noise.numpy(), 1, -1)[None]
  ours, _ = generate(refinement.unet, refinement.frozen, inputs, noise_BFHWC)
  assert relative_error(ours, np.moveaxis(theirs.numpy(), 1, -1)) < 1e-4


def test_a_text_to_video_folder_is_a_start(refinement, tmp_path):
  """Its text encoder lacks the last layer, as ModelScope's does; its scheduler decides."""
  folder = tmp_path / 'text_to_video'
  config = text_config(levels=0)
  config.loss.prediction_type = 'eps'
  config.schedule.update(kind='scaled_linear', zero_terminal_snr=False)
  read_params = (refinement.frozen | {'unet': refinement.unet}).get
  diffusers_folder.export_diffusers(folder, config, read_params)
  index = json.loads((folder / 'model_index.json').read_text())
  assert index['_class_name'] == 'TextToVideoSDPipeline'
  with pytest.raises(ValueError) as error:
    sources.check_scheduler(folder, refinement.config)
  assert str(error.value).endswith(
    'add --config.loss.prediction_type=eps --config.schedule.kind=scaled_linear '
    '--config.schedule.zero_terminal_snr=False.'
  )
  sources.check_scheduler(folder, config)
  load.load(config, load.find_parts(folder), tmp_path / 'loaded')
  session = session_lib.open_run(tmp_path / 'loaded')
  frozen = session.load_frozen(tmp_path / 'loaded').frozen
  inputs = {'token_ids': session.signals['text'].tokenize([CAPTION])}
  expected = refinement.session.signals['text'].encode(refinement.frozen, inputs)
  np.testing.assert_array_equal(session.signals['text'].encode(frozen, inputs), expected)


def test_a_schedule_without_a_name_is_refused_and_that_of_an_image_model_is_not(tmp_path):
  for part, content in (
    ('scheduler/scheduler_config.json', dict(beta_schedule='linear', beta_start=1e-4)),
    ('unet/config.json', dict(_class_name='UNet3DConditionModel')),
  ):
    (tmp_path / part).parent.mkdir()
    (tmp_path / part).write_text(json.dumps(content))
  with pytest.raises(ValueError, match='there is no schedule.kind for that'):
    sources.check_scheduler(tmp_path, text_config())
  (tmp_path / 'unet/config.json').write_text(json.dumps(dict(_class_name='UNet2DConditionModel')))
  sources.check_scheduler(tmp_path, text_config())
  sources.check_scheduler(tmp_path / 'elsewhere', text_config())


def test_what_the_class_has_built_in_is_refused_otherwise():
  with pytest.raises(ValueError, match='unet.row_margin=1 cannot be .* UNet3DConditionModel'):
    pipelines.unet_config(text_config(row_margin=1))
