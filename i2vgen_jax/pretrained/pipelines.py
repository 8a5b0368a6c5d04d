"""Which of diffusers' pipelines a model is, with its U-Net's and scheduler's configs.

The release's five conditions are I2VGenXLPipeline. Text alone is ModelScope's UNet3DConditionModel:
VideoToVideoSDPipeline if it refines, TextToVideoSDPipeline if not.
"""

from typing import Any

import ml_collections

from i2vgen_jax.pretrained import configs

# Ours -> the algorithm of diffusers' DPMSolverMultistepScheduler.
DPM_SOLVERS = {'dpmpp_2m': 'dpmsolver++', 'dpmpp_2m_sde': 'sde-dpmsolver++'}
# What UNet3DConditionModel has built in, whatever its config.
TEXT_UNET = dict(
  conditioners=(dict(kind='text'),),
  temporal_in_heads=configs.TEMPORAL_IN_HEADS,
  row_margin=0,
  free_u=(),
)


def is_text_alone(config: ml_collections.ConfigDict) -> bool:
  """True for a model that is conditioned on CLIP's caption and nothing else."""
  return [line['kind'] for line in config.unet.conditioners] == ['text']


def name(config: ml_collections.ConfigDict) -> str:
  """The class of the pipeline."""
  if not is_text_alone(config):
    return 'I2VGenXLPipeline'
  return 'VideoToVideoSDPipeline' if config.refine.levels else 'TextToVideoSDPipeline'


def unet_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Config of the pipeline's U-Net; raises ValueError for a model that it cannot express."""
  if not is_text_alone(config):
    return configs.unet_config(config)
  configs.require_equal("diffusers' UNet3DConditionModel", config.unet, TEXT_UNET)
  sizes = configs.level_fields(config.unet)
  return dict(
    _class_name='UNet3DConditionModel',
    _diffusers_version=configs.DIFFUSERS_VERSION,
    in_channels=config.unet.out_channels,
    sample_size=32,  # ModelScope's; only pipelines that are given no size read it.
    **sizes,
  )


def text_layers(config: ml_collections.ConfigDict) -> int:
  """Layers of the text encoder that the pipeline is given.

  I2VGenXLPipeline leaves out the last layer by itself (clip_skip=1), the others do not; Stable
  Diffusion 2.1's encoder, which they are made for, comes without it.
  """
  return config.text_encoder.model.num_layers - is_text_alone(config)


def scheduler_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Config of the scheduler; raises ValueError for a schedule that diffusers has no name for.

  I2VGenXLPipeline runs DDIM alone.
  """
  settings = configs.scheduler_config(config)
  if not is_text_alone(config):
    return settings
  settings['timestep_spacing'] = config.sample.spacing
  if config.sample.sampler not in DPM_SOLVERS:
    return settings
  kept = (
    '_diffusers_version', 'num_train_timesteps', 'beta_schedule', 'beta_start', 'beta_end',
    'trained_betas', 'rescale_betas_zero_snr', 'prediction_type', 'timestep_spacing',
  )  # fmt: skip
  return dict(
    {field: settings[field] for field in kept},
    _class_name='DPMSolverMultistepScheduler',
    algorithm_type=DPM_SOLVERS[config.sample.sampler],
    solver_order=2,
    solver_type='midpoint',
    lower_order_final=True,
    final_sigmas_type='zero',
    steps_offset=1,
  )


def model_index(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Says which class reads which folder."""
  index = configs.model_index() | dict(_class_name=name(config))
  index['scheduler'] = ['diffusers', scheduler_config(config)['_class_name']]
  if is_text_alone(config):
    index['unet'] = ['diffusers', 'UNet3DConditionModel']
    del index['feature_extractor'], index['image_encoder']
  return index
