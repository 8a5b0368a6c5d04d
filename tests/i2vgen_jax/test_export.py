"""An exported folder in diffusers: its parts and its videos equal ours."""

import types

import jax
import numpy as np
import PIL.Image
import pytest

from configs import common
from data_pipelines.media import crops
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.exports import diffusers_folder, vgen_file
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import configs, tensors, unet_names
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.sampling import generate as generate_lib

torch = pytest.importorskip('torch')
diffusers = pytest.importorskip('diffusers')

# float32 rounding, relative to the largest value; at most 1.4e-6 seen for each part.
RTOL = 1e-5
TOKENIZER = 'i2vgen_jax/demo/tokenizer'


def small_config(**unet):
  config = common.release()
  config.dtype = 'float32'
  config.tokenizer = TOKENIZER
  config.unet.update(
    block_channels=(16, 32),
    attention_levels=(True, False),
    layers_per_block=1,
    head_dim=8,
    norm_groups=8,
    context_dim=16,
    remat='none',
  )
  config.unet.update(unet)
  config.vae.model.update(block_channels=(8, 8, 16), layers_per_block=1, norm_groups=2)
  tower = dict(hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2)
  config.text_encoder.model.update(vocab_size=856, max_length=16, **tower)
  config.image_encoder.model.update(patch_size=8, image_size=32, projection_dim=16, **tower)
  return config


def vgen_config():
  """A small model that VGen's classes can express."""
  config = small_config(block_channels=(32, 64), norm_groups=32, context_dim=1024)
  config.text_encoder.model.update(hidden_size=1024, num_layers=1)
  config.image_encoder.model.update(projection_dim=1024)
  return config


def random_unet(config):
  """Random parameters of the U-Net of a config."""
  built = session_lib.build(config)
  inputs = built.smallest_unet_inputs()
  abstract = jax.eval_shape(built.unet.init, jax.random.key(0), *inputs)['params']
  return random_params(abstract, seed=1)


def random_params(abstract, seed):
  """Like torch's defaults in size, with no layer at zero; norms near one."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    fan_in = int(np.prod(leaf.shape[:-1])) if path[-1].key == 'kernel' else 25
    values = rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
    return (values + (path[-1].key == 'scale')).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, abstract)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """Our small model with random weights, and diffusers' pipeline read from its export."""
  config = small_config()
  ours = session_lib.build(config)
  key = jax.random.key(0)
  unet_params = random_params(
    jax.eval_shape(ours.unet.init, key, *ours.unet_inputs(2, 32, 32))['params'], seed=1
  )
  frozen_params = random_params(frozen_lib.abstract(ours.networks), seed=2)
  # diffusers draws from the posterior without a seed: at the lowest variance its draw is the mean.
  quant_conv = frozen_params['vae']['quant_conv']
  quant_conv['kernel'][..., 4:] = 0
  quant_conv['bias'][4:] = -30
  output = tmp_path_factory.mktemp('export') / 'pipeline'
  read_params = (frozen_params | {'unet': unet_params}).get
  diffusers_folder.export_diffusers(output, config, read_params)
  pipeline = diffusers.I2VGenXLPipeline.from_pretrained(output)
  pipeline.set_progress_bar_config(disable=True)
  return types.SimpleNamespace(
    config=config,
    session=ours,
    unet_params=unet_params,
    read_params=read_params,
    frozen_params=frozen_params,
    output=output,
    pipeline=pipeline,
  )


def relative_error(ours, theirs):
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  assert ours.shape == theirs.shape
  return np.abs(ours - theirs).max() / np.abs(theirs).max()


def channels_first(x_BHWC):
  return torch.from_numpy(np.moveaxis(x_BHWC, -1, 1).copy())


def test_exported_unet_predicts_what_ours_does(exported):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
  latents_BFHWC, image_BHWC = draw(2, 3, 8, 6, 4), draw(2, 8, 6, 4)
  text_BLD, embedding_BV = draw(2, 16, 16), draw(2, 16)
  timesteps_B, fps_B = np.array([7, 801]), np.array([8, 16])
  marks = np.stack([np.full_like(image_BHWC, k / 2) for k in (1, 2)], 1)
  with torch.no_grad():
    theirs = exported.pipeline.unet(
      channels_first(latents_BFHWC),
      torch.from_numpy(timesteps_B),
      fps=torch.from_numpy(fps_B),
      image_latents=channels_first(np.concatenate([image_BHWC[:, None], marks], 1)),
      image_embeddings=torch.from_numpy(embedding_BV[:, None]),
      encoder_hidden_states=torch.from_numpy(text_BLD),
    ).sample.numpy()
  conditioning = dict(
    text=text_BLD, image_embedding=embedding_BV, image_latents=image_BHWC, fps=fps_B
  )
  ours = jax.jit(exported.session.unet.apply)(
    {'params': exported.unet_params}, latents_BFHWC, timesteps_B, conditioning
  )
  assert relative_error(ours, np.moveaxis(theirs, 1, -1)) < RTOL


def test_exported_vae_encodes_and_decodes_as_ours_does(exported):
  codec, theirs = exported.session.autoencoder, exported.pipeline.vae
  variables = {'params': exported.frozen_params['vae']}
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (2, 24, 32, 3)).astype(np.float32)
  latents = rng.standard_normal((2, 6, 8, 4)).astype(np.float32)
  with torch.no_grad():
    mean = theirs.encode(channels_first(images)).latent_dist.mean.numpy()
    decoded = theirs.decode(channels_first(latents)).sample.numpy()
  ours, _ = codec.vae.apply(variables, images, method='encode')
  assert relative_error(ours, np.moveaxis(mean, 1, -1)) < RTOL
  ours = codec.vae.apply(variables, latents, method='decode')
  assert relative_error(ours, np.moveaxis(decoded, 1, -1)) < RTOL
  assert theirs.config.scaling_factor == codec.scaling_factor


def test_exported_prompt_encoding_equals_ours(exported):
  """Tokens, padding, layer and final norm."""
  captions = ['a red circle moves left', 'Zürich, 2024: more words than the tower has places for!']
  exported.pipeline._guidance_scale = 1  # No negative prompt.
  theirs, _ = exported.pipeline.encode_prompt(captions, 'cpu', 1, clip_skip=1)
  signal = exported.session.signals['text']
  ours = signal.encode(exported.frozen_params, {'token_ids': signal.tokenize(captions)})
  assert relative_error(ours, theirs.detach().numpy()) < RTOL


def test_exported_image_encoding_equals_ours(exported):
  pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  exported.pipeline._guidance_scale = 1  # No embedding of zeros.
  with torch.no_grad():
    theirs = exported.pipeline._encode_image([PIL.Image.fromarray(x) for x in pixels], 'cpu', 1)
  ours = exported.session.signals['image_embedding'].encode(
    exported.frozen_params, {'clip_image': pixels}
  )
  assert relative_error(ours, theirs[:, 0].numpy()) < RTOL


def test_exported_scheduler_has_our_noise_levels(exported):
  theirs = exported.pipeline.scheduler
  ours = exported.session.schedule.alphas_cumprod_T
  # diffusers multiplies a thousand float32 numbers.
  np.testing.assert_allclose(theirs.alphas_cumprod.numpy(), ours, rtol=0, atol=1e-6)
  assert theirs.config.prediction_type == 'v_prediction'


def test_diffusers_makes_our_latents_from_the_same_start_noise(exported):
  """From picture and captions on, through the whole pipeline: 10 steps, with guidance."""
  rng = np.random.default_rng(0)
  # Twice the video's size: diffusers' crop is then not short of a pixel.
  image = PIL.Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8))
  caption, negative_prompt = 'a red circle moves left', 'blurry, static'
  height, width, frames, fps = 32, 32, 4, 8
  noise_BFHWC = generate_lib.start_noise(exported.session, 0, 1, (frames, height, width))
  request = base.Request([image], [caption], height, width, fps)
  signals = exported.session.of_request(request)
  # diffusers cuts CLIP's square as VGen does; ours is the stream's (test_decode.py compares them).
  square = crops.clip_square(image, width, exported.session.networks['image_encoder'].image_size)
  signals['image_embedding'] = {'clip_image': np.asarray(square)[None]}
  inputs = generate_lib.Inputs(signals, exported.session.negative(negative_prompt))
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  generate = generate_lib.make_generate(
    exported.session.on(mesh), prediction_type='v', num_steps=10, guidance_scale=9.0
  )
  ours, _ = generate(exported.unet_params, exported.frozen_params, inputs, noise_BFHWC)
  theirs = exported.pipeline(
    caption,
    image,
    height=height,
    width=width,
    target_fps=fps,
    num_frames=frames,
    num_inference_steps=10,
    guidance_scale=9.0,
    negative_prompt=negative_prompt,
    latents=channels_first(np.asarray(noise_BFHWC)),
    output_type='latent',
  ).frames
  assert relative_error(ours, np.moveaxis(theirs.numpy(), 1, -1)) < 1e-4  # 5e-6 seen.


@pytest.mark.parametrize(
  'unet, message',
  [
    (
      dict(conditioners=common.CONDITIONERS[1:]),
      'conditioners=.* needs {"kind": "text"}. --format',
    ),
    (dict(conditioners=common.CONDITIONERS[::-1]), 'conditioners=.* in another order'),
    (
      dict(conditioners=(*common.CONDITIONERS, dict(kind='motion'))),
      'conditioners=.* cannot be expressed by .*, which lacks {"kind": "motion"}. --format=torch w',
    ),
    (dict(temporal_in_heads=2), 'unet.temporal_in_heads=2 cannot be expressed'),
    (dict(context_dim=24), 'projection_dim=16 beside unet.context_dim=24'),
  ],
)
def test_a_model_that_diffusers_cannot_express_is_refused_and_leaves_nothing(
  tmp_path, exported, unet, message
):
  with pytest.raises(ValueError, match=message):
    diffusers_folder.export_diffusers(tmp_path / 'out', small_config(**unet), exported.read_params)
  assert not list(tmp_path.iterdir())


def test_a_noise_schedule_that_diffusers_has_no_name_for_is_refused():
  config = small_config()
  config.schedule.kind = 'logsnr_cosine_interp'
  with pytest.raises(ValueError, match='cannot be written .* which holds cosine, scaled_linear'):
    configs.scheduler_config(config)


def test_an_existing_folder_is_not_touched(tmp_path, exported):
  (tmp_path / 'note').write_text('keep')
  with pytest.raises(ValueError, match='exists: remove it or choose another folder'):
    diffusers_folder.export_diffusers(tmp_path, exported.config, exported.read_params)
  assert [path.name for path in tmp_path.iterdir()] == ['note']


def test_an_overflow_in_half_precision_is_named_and_leaves_nothing(tmp_path, exported):
  """65504 is the largest float16; bfloat16 holds more."""
  params = jax.tree.map(np.copy, exported.unet_params)
  params['conv_out']['bias'][1] = 70000.0
  arguments = exported.config, (exported.frozen_params | {'unet': params}).get
  with pytest.raises(ValueError, match='1 tensors are not finite as float16.*\n  conv_out.bias'):
    diffusers_folder.export_diffusers(tmp_path / 'out', *arguments, 'float16')
  with pytest.raises(ValueError, match='1 tensors are not finite as float16.*\n  out.2.bias'):
    config = vgen_config()
    params = random_unet(config)
    params['conv_out']['bias'][1] = 70000.0
    vgen_file.export_vgen(tmp_path / 'out.pth', config, params, 7, 'float16')
  assert not list(tmp_path.iterdir())
  diffusers_folder.export_diffusers(tmp_path / 'out', *arguments, 'bfloat16')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_half_precision_parts_load_in_their_own_type(tmp_path, exported, dtype):
  diffusers_folder.export_diffusers(tmp_path / 'out', exported.config, exported.read_params, dtype)
  kind = getattr(torch, dtype)
  pipeline = diffusers.I2VGenXLPipeline.from_pretrained(tmp_path / 'out', torch_dtype=kind)
  theirs = dict(pipeline.unet.state_dict())
  for name, value in exported.pipeline.unet.state_dict().items():
    torch.testing.assert_close(theirs[name], value.to(kind), rtol=0, atol=0)


def test_vgen_gets_a_checkpoint_of_its_own_names_with_half_the_image_gain(tmp_path):
  config = vgen_config()
  params = random_unet(config)
  vgen_file.export_vgen(tmp_path / 'x_7.pth', config, params, step=7)
  content = torch.load(tmp_path / 'x_7.pth', weights_only=True)
  assert content['step'] == 7
  ours = {
    name: torch.from_numpy(value)
    for name, value in tensors.to_torch(params, unet_names.name_of).items()
  }
  theirs = content['state_dict']
  torch.testing.assert_close(
    theirs['input_blocks.0.0.weight'][:, 4:], ours['conv_in.weight'][:, 4:] / 2
  )
  qkv = [ours[f'image_latents_temporal_encoder.attn1.to_{x}.weight'] for x in 'qkv']
  stored = theirs['local_temporal_encoder.layers.0.0.fn.to_qkv.weight']
  torch.testing.assert_close(stored, torch.cat(qkv), rtol=0, atol=0)
  assert theirs['input_blocks.0.1.proj_in.weight'].shape == (64, 32, 1)


@pytest.mark.parametrize(
  'unet, message',
  [
    (dict(norm_groups=16), "unet.norm_groups=16 cannot be expressed by VGen's UNetSD_I2VGen"),
    (dict(context_dim=64), "unet.context_dim=64 cannot be expressed by VGen's UNetSD_I2VGen"),
    (
      dict(norm_groups=16, **configs.SR600),
      "unet.norm_groups=16 cannot be expressed by VGen's UNetSD_SR600",
    ),
  ],
)
def test_what_vgen_has_built_in_is_not_left_to_the_shapes(tmp_path, unet, message):
  """Its class would load such weights, and compute something else."""
  config = vgen_config()
  config.unet.update(unet)
  for network, field in (('text_encoder', 'hidden_size'), ('image_encoder', 'projection_dim')):
    config[network].model[field] = config.unet.context_dim
  with pytest.raises(ValueError, match=message):
    vgen_file.export_vgen(tmp_path / 'out.pth', config, {}, 7)
  assert not list(tmp_path.iterdir())
