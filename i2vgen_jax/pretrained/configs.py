"""Configs of diffusers' and transformers' classes, written by ours.

A model that a class cannot express is refused.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from i2vgen_jax.models import clip

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

# What VGen's UNetSD_SR600 has built in.
SR600 = dict(
  conditioners=(dict(kind='text'),), out_channels=4, row_margin=1, free_u=((1.1, 0.6), (1.2, 0.4))
)

# What all of VGen's classes have built in.
VGEN = dict(norm_groups=32, context_dim=1024)

# Ours -> diffusers'.
PREDICTION_TYPES = {'v': 'v_prediction', 'eps': 'epsilon', 'x0': 'sample'}
BETA_SCHEDULES = {
  'cosine': dict(beta_schedule='squaredcos_cap_v2', beta_start=0.0001, beta_end=0.02),
  'scaled_linear': dict(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012),
}


def unet_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Config of diffusers' I2VGenXLUNet.

  Raises:
    ValueError: the model has what that class cannot express.
  """
  unet = config.unet
  conditioners = tuple(
    CONDITIONER_DEFAULTS.get(line['kind'], {}) | dict(line) for line in unet.conditioners
  )
  needed = dict(
    conditioners=CONDITIONERS,
    temporal_in_heads=TEMPORAL_IN_HEADS,
    out_channels=LATENT_CHANNELS,
    row_margin=0,
    free_u=(),
  )
  require_equal("diffusers' I2VGenXLUNet", unet, needed, conditioners=conditioners)
  projection_dim = config.image_encoder.model.projection_dim
  if projection_dim != unet.context_dim:
    raise ValueError(
      f'diffusers feeds the image embedding into a layer as wide as the context: it cannot express '
      f'image_encoder.model.projection_dim={projection_dim} beside unet.context_dim='
      f'{unet.context_dim}.'
    )
  sizes = level_fields(unet)
  norm_num_groups = sizes.pop('norm_num_groups')
  return dict(
    _class_name='I2VGenXLUNet',
    _diffusers_version=DIFFUSERS_VERSION,
    in_channels=LATENT_CHANNELS,
    **sizes,
    # A level has channels / attention_head_dim heads. The release repeats the number under
    # num_attention_heads, which diffusers ignores.
    num_attention_heads=unet.head_dim,
    norm_num_groups=norm_num_groups,
    sample_size=32,  # The release's; nothing reads it.
  )


def level_fields(unet: Any) -> dict[str, Any]:
  """The fields that diffusers' video U-Nets share: what their levels are made of."""
  attention_levels = list(unet.attention_levels)
  return dict(
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
    attention_head_dim=unet.head_dim,
    norm_num_groups=unet.norm_groups,
  )


def vae_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
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


def text_config(
  config: ml_collections.ConfigDict,
  token_ids: Mapping[str, int],
  num_layers: int,
  dtype: str = 'float32',
) -> dict[str, Any]:
  """Config of transformers' CLIPTextModel; `token_ids` are its bos, eos and pad token ids.

  Args:
    config: the config of the run.
    token_ids: bos_token_id, eos_token_id and pad_token_id of the tokenizer.
    num_layers: how many of the tower's layers are written.
    dtype: name of the weights' type.
  """
  model = config.text_encoder.model
  return dict(
    architectures=['CLIPTextModel'],
    model_type='clip_text_model',
    hidden_act=model.activation,
    hidden_size=model.hidden_size,
    intermediate_size=model.intermediate_size,
    num_hidden_layers=num_layers,
    num_attention_heads=model.num_heads,
    max_position_embeddings=model.max_length,
    vocab_size=model.vocab_size,
    projection_dim=model.hidden_size,
    layer_norm_eps=1e-5,
    torch_dtype=dtype,
    **token_ids,
  )


def vision_config(config: ml_collections.ConfigDict, dtype: str = 'float32') -> dict[str, Any]:
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
    torch_dtype=dtype,
  )


def image_processor_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
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
    image_mean=[round(float(x), 8) for x in clip.MEAN],
    image_std=[round(float(x), 8) for x in clip.DEVIATION],
  )


def scheduler_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Config of diffusers' DDIMScheduler; fields that we have no setting for are the release's.

  Raises:
    ValueError: a schedule that diffusers has no name for.
  """
  kind = config.schedule.kind
  if kind not in BETA_SCHEDULES:
    raise ValueError(
      f"schedule.kind={kind!r} cannot be written for diffusers' DDIMScheduler, which holds "
      f'{", ".join(BETA_SCHEDULES)}.'
    )
  return dict(
    _class_name='DDIMScheduler',
    _diffusers_version=DIFFUSERS_VERSION,
    num_train_timesteps=config.schedule.num_timesteps,
    **BETA_SCHEDULES[kind],
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


def model_index() -> dict[str, Any]:
  """Says which class reads which folder."""
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


def check_vgen(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if none of VGen's classes computes what the U-Net does.

  A model of text alone is UNetSD_SR600; any other has to be UNetSD_I2VGen, which has built in what
  diffusers' I2VGenXLUNet has. Besides, both have built in what no tensor's shape shows, so that
  another model would load and compute something else.
  """
  if [line['kind'] for line in config.unet.conditioners] == ['text']:
    require_equal("VGen's UNetSD_SR600", config.unet, SR600 | VGEN)
  else:
    unet_config(config)
    require_equal("VGen's UNetSD_I2VGen", config.unet, VGEN)


def require_equal(name: str, unet: Any, needed: Mapping[str, Any], **normalized: Any) -> None:
  """Compares a U-Net with what a class has built in.

  Args:
    name: of the class.
    unet: block of the config.
    needed: field -> value that it has to have.
    **normalized: values of the U-Net's fields in place of its own.

  Raises:
    ValueError: a field differs.
  """
  # Older runs have neither row_margin nor free_u.
  found: dict[str, Any] = dict(row_margin=0, free_u=()) | dict(unet) | normalized
  for field, value in needed.items():
    if _as_lists(found[field]) != _as_lists(value):
      if field == 'conditioners':
        given = [line['kind'] for line in found[field]]
        why = _lines_that_differ(found[field], value)
      else:
        given, why = found[field], f'which has {value!r} built in'
      raise ValueError(
        f'unet.{field}={given!r} cannot be expressed by {name}, {why}. --format=torch writes a '
        'folder of any model.'
      )


def _lines_that_differ(found: Sequence[Mapping], needed: Sequence[Mapping]) -> str:
  found, needed = _as_lists(found), _as_lists(needed)
  extra = [json.dumps(line) for line in found if line not in needed]
  absent = [json.dumps(line) for line in needed if line not in found]
  parts = ['which lacks ' + ', '.join(extra)] * bool(extra)
  parts += ['which needs ' + ', '.join(absent)] * bool(absent)
  return ' and '.join(parts) or 'which has them in another order'


def _as_lists(value: Any) -> Any:
  return json.loads(json.dumps(value, default=dict))
