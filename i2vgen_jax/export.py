"""Writes a trained run as a folder that diffusers loads.

  python -m i2vgen_jax.export --workdir=DIR --format=diffusers --output=OUT

OUT is what `diffusers.I2VGenXLPipeline.from_pretrained` reads (diffusers 0.35 with transformers 4):
U-Net, VAE, CLIP towers, tokenizer, image processor and scheduler, float32. Neither torch nor
diffusers is needed to write it. A U-Net that diffusers' class cannot express is refused.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile

import safetensors.numpy
from absl import flags

from i2vgen_jax import cli, components, encoders
from i2vgen_jax.pretrained import clip_names, tensors, unet_names, vae_names

# The newest version that has the pipeline and runs it.
DIFFUSERS_VERSION = '0.35.2'

# What diffusers' I2VGenXLUNet has built in, whatever its config.
TEMPORAL_IN_HEADS = 8
LATENT_CHANNELS = 4
CONDITIONERS = (
  dict(kind='text'),
  dict(kind='image_latent_tokens', pool_size=32),
  dict(kind='image_tokens', num_tokens=LATENT_CHANNELS),
  dict(kind='image_latents'),
  dict(kind='fps'),
)
CONDITIONER_DEFAULTS = {
  'image_latent_tokens': dict(pool_size=32),
  'image_tokens': dict(num_tokens=4),
}

# Ours -> diffusers'.
PREDICTION_TYPES = {'v': 'v_prediction', 'eps': 'epsilon', 'x0': 'sample'}
BETA_SCHEDULES = {
  'cosine': dict(beta_schedule='squaredcos_cap_v2', beta_start=0.0001, beta_end=0.02),
  'scaled_linear': dict(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012),
}


def main():
  """Loads the run's weights and writes them."""
  workdir, output, weights = flags.FLAGS.workdir, flags.FLAGS.output, flags.FLAGS.weights
  check_output(output)  # Before minutes of loading.
  config, _, _, unet_params, frozen_params = components.load_run(workdir, weights)
  export_diffusers(output, config, unet_params, frozen_params)
  print(f'Wrote {output}: diffusers.I2VGenXLPipeline.from_pretrained({output!r})')


def export_diffusers(output, config, unet_params, frozen_params):
  """Writes a complete I2VGenXLPipeline folder, or nothing.

  Args:
    output: local folder that does not exist yet.
    config: of the run: unet, vae, text_encoder, image_encoder, tokenizer, schedule, loss, sample.
    unet_params: parameters of the U-Net.
    frozen_params: dict(vae, text_encoder, image_encoder) of parameters.

  Raises:
    ValueError: `output` exists or is no local path, diffusers cannot express the model, or the
      weights do not fit the config.
  """
  tokenizer_files, token_ids = _tokenizer(config)
  configs = {
    'unet/config.json': unet_config(config),
    'vae/config.json': vae_config(config),
    'text_encoder/config.json': text_config(config, token_ids),
    'image_encoder/config.json': vision_config(config),
    'feature_extractor/preprocessor_config.json': image_processor_config(config),
    'scheduler/scheduler_config.json': scheduler_config(config),
    'model_index.json': model_index(),
  }
  weights = {
    'unet/diffusion_pytorch_model.safetensors': (unet_params, unet_names.name_of),
    'vae/diffusion_pytorch_model.safetensors': (frozen_params['vae'], vae_names.name_of),
    'text_encoder/model.safetensors': (frozen_params['text_encoder'], clip_names.text_name_of),
    'image_encoder/model.safetensors': (frozen_params['image_encoder'], clip_names.vision_name_of),
  }
  with _written_whole(output) as folder:
    for name, content in configs.items():
      _write(folder / name, json.dumps(content, indent=2) + '\n')
    for name, content in tokenizer_files.items():
      _write(folder / 'tokenizer' / name, content)
    for name, (params, name_of) in weights.items():
      # 'format' tells transformers whose layout the tensors have; without it, it refuses the file.
      named = tensors.to_torch(params, name_of)
      safetensors.numpy.save_file(named, folder / name, metadata={'format': 'pt'})
      (folder / name).chmod(0o644)  # safetensors lets only the owner read.


def check_output(output):
  """Raises ValueError if `output` cannot be the new folder."""
  if '://' in str(output):
    raise ValueError(f'output={output!r} must be a local folder: export there, then copy.')
  if pathlib.Path(output).exists():
    raise ValueError(f'output={output!r} exists: remove it or export to another folder.')


def unet_config(config):
  """Config of diffusers' I2VGenXLUNet.

  Raises:
    ValueError: the model has what that class cannot express.
  """
  unet = config.unet
  conditioners = tuple(
    CONDITIONER_DEFAULTS.get(line['kind'], {}) | dict(line) for line in unet.conditioners
  )
  _require_equal('conditioners', conditioners, CONDITIONERS)
  _require_equal('temporal_in_heads', unet.temporal_in_heads, TEMPORAL_IN_HEADS)
  _require_equal('out_channels', unet.out_channels, LATENT_CHANNELS)
  projection_dim = config.image_encoder.model.projection_dim
  if projection_dim != unet.context_dim:
    raise ValueError(
      f'diffusers feeds the image embedding into a layer as wide as the context: it cannot express '
      f'image_encoder.model.projection_dim={projection_dim} beside unet.context_dim='
      f'{unet.context_dim}.'
    )
  attention_levels = list(unet.attention_levels)
  return dict(
    _class_name='I2VGenXLUNet',
    _diffusers_version=DIFFUSERS_VERSION,
    in_channels=LATENT_CHANNELS,
    out_channels=unet.out_channels,
    block_out_channels=list(unet.block_channels),
    down_block_types=[
      'CrossAttnDownBlock3D' if attention else 'DownBlock3D' for attention in attention_levels
    ],
    up_block_types=[
      'CrossAttnUpBlock3D' if attention else 'UpBlock3D' for attention in attention_levels[::-1]
    ],
    layers_per_block=unet.layers_per_block,
    cross_attention_dim=unet.context_dim,
    # A level has channels / attention_head_dim heads. The release repeats the number under
    # num_attention_heads, which diffusers ignores.
    attention_head_dim=unet.head_dim,
    num_attention_heads=unet.head_dim,
    norm_num_groups=unet.norm_groups,
    sample_size=32,  # The release's; nothing reads it.
  )


def vae_config(config):
  """Config of diffusers' AutoencoderKL."""
  model = config.vae.model
  levels = len(model.block_channels)
  return dict(
    _class_name='AutoencoderKL',
    _diffusers_version=DIFFUSERS_VERSION,
    act_fn='silu',
    in_channels=model.in_channels,
    out_channels=model.in_channels,
    latent_channels=model.latent_channels,
    block_out_channels=list(model.block_channels),
    down_block_types=['DownEncoderBlock2D'] * levels,
    up_block_types=['UpDecoderBlock2D'] * levels,
    layers_per_block=model.layers_per_block,
    norm_num_groups=model.norm_groups,
    scaling_factor=config.vae.scaling_factor,
    sample_size=768,  # The release's; only tiled decoding reads it.
    force_upcast=True,
  )


def text_config(config, token_ids):
  """Config of transformers' CLIPTextModel; `token_ids` are its bos, eos and pad token ids."""
  model = config.text_encoder.model
  return dict(
    architectures=['CLIPTextModel'],
    model_type='clip_text_model',
    hidden_act=model.activation,
    hidden_size=model.hidden_size,
    intermediate_size=model.intermediate_size,
    num_hidden_layers=model.num_layers,
    num_attention_heads=model.num_heads,
    max_position_embeddings=model.max_length,
    vocab_size=model.vocab_size,
    projection_dim=model.hidden_size,
    layer_norm_eps=1e-5,
    torch_dtype='float32',
    **token_ids,
  )


def vision_config(config):
  """Config of transformers' CLIPVisionModelWithProjection."""
  model = config.image_encoder.model
  return dict(
    architectures=['CLIPVisionModelWithProjection'],
    model_type='clip_vision_model',
    hidden_act=model.activation,
    hidden_size=model.hidden_size,
    intermediate_size=model.intermediate_size,
    num_hidden_layers=model.num_layers,
    num_attention_heads=model.num_heads,
    num_channels=3,
    patch_size=model.patch_size,
    image_size=model.image_size,
    projection_dim=model.projection_dim,
    layer_norm_eps=1e-5,
    torch_dtype='float32',
  )


def image_processor_config(config):
  """Config of transformers' CLIPImageProcessor; the pipeline only normalises by it."""
  size = config.image_encoder.model.image_size
  return dict(
    image_processor_type='CLIPImageProcessor',
    do_convert_rgb=True,
    do_resize=True,
    size=dict(shortest_edge=size),
    resample=3,  # Bicubic.
    do_center_crop=True,
    crop_size=dict(height=size, width=size),
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=[round(float(x), 8) for x in encoders.CLIP_MEAN],
    image_std=[round(float(x), 8) for x in encoders.CLIP_STD],
  )


def scheduler_config(config):
  """Config of diffusers' DDIMScheduler; what is not ours to choose is the release's."""
  return dict(
    _class_name='DDIMScheduler',
    _diffusers_version=DIFFUSERS_VERSION,
    num_train_timesteps=config.schedule.num_timesteps,
    **BETA_SCHEDULES[config.schedule.kind],
    trained_betas=None,
    rescale_betas_zero_snr=config.schedule.zero_terminal_snr,
    prediction_type=PREDICTION_TYPES[config.loss.prediction_type],
    set_alpha_to_one=config.sample.set_alpha_to_one,
    steps_offset=1,
    timestep_spacing='leading',
    clip_sample=False,
    clip_sample_range=1.0,
    thresholding=False,
    dynamic_thresholding_ratio=0.995,
    sample_max_value=1.0,
  )


def model_index():
  """Which class reads which folder."""
  return dict(
    _class_name='I2VGenXLPipeline',
    _diffusers_version=DIFFUSERS_VERSION,
    feature_extractor=['transformers', 'CLIPImageProcessor'],
    image_encoder=['transformers', 'CLIPVisionModelWithProjection'],
    scheduler=['diffusers', 'DDIMScheduler'],
    text_encoder=['transformers', 'CLIPTextModel'],
    tokenizer=['transformers', 'CLIPTokenizer'],
    unet=['diffusers', 'I2VGenXLUNet'],
    vae=['diffusers', 'AutoencoderKL'],
  )


def _tokenizer(config):
  """(file name -> content, ids of the special tokens) of the run's tokenizer.

  Written by hand: the files that transformers 5 saves are not those that version 4 reads.
  """
  folder = components.find(config.tokenizer)
  tokenizer = components.load_tokenizer(config.tokenizer)
  roles = ('bos_token', 'eos_token', 'pad_token', 'unk_token')
  special_tokens = {role: str(getattr(tokenizer, role)) for role in roles}
  settings = dict(
    tokenizer_class='CLIPTokenizer',
    # The pipeline pads to this length, which the text encoder must take.
    model_max_length=min(tokenizer.model_max_length, config.text_encoder.model.max_length),
    do_lower_case=True,
    add_prefix_space=False,
    errors='replace',
    **special_tokens,
  )
  files = {name: (folder / name).read_text('utf-8') for name in ('vocab.json', 'merges.txt')}
  files['tokenizer_config.json'] = json.dumps(settings, indent=2) + '\n'
  files['special_tokens_map.json'] = json.dumps(special_tokens, indent=2) + '\n'
  roles = ('bos_token_id', 'eos_token_id', 'pad_token_id')
  return files, {role: getattr(tokenizer, role) for role in roles}


def _require_equal(field, value, needed):
  if value != needed:
    raise ValueError(
      f"unet.{field}={value!r} cannot be expressed by diffusers' I2VGenXLUNet, which has "
      f'{needed!r} built in.'
    )


@contextlib.contextmanager
def _written_whole(output):
  """A folder beside `output` that takes its name on success and vanishes on failure."""
  check_output(output)
  output = pathlib.Path(output).absolute()
  output.parent.mkdir(parents=True, exist_ok=True)
  part = pathlib.Path(tempfile.mkdtemp(prefix=f'{output.name}.', suffix='.part', dir=output.parent))
  try:
    yield part
    part.chmod(0o755)  # mkdtemp makes a private folder.
    part.rename(output)
  except BaseException:
    shutil.rmtree(part)
    raise


def _write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content, encoding='utf-8')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'the run to export')
  flags.DEFINE_enum('format', 'diffusers', ['diffusers'], 'layout of the output')
  flags.DEFINE_string('output', None, 'folder to write; must not exist')
  flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'averaged or last weights')
  cli.require('workdir', 'output')
  cli.run(main)
