"""From an image and a caption to a video: condition, denoise with guidance, decode.

A refinement stage starts from a video with noise on it, the base stage from noise alone.

Spec of the release's inference: guidance between {caption, CLIP image} and {negative prompt,
zeros}; the image's latents and the fps are the same on both sides, so that guidance never acts on
them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from data_pipelines.media import crops
from i2vgen_jax.diffusion import guidance, loss
from i2vgen_jax.diffusion import sampler as samplers
from i2vgen_jax.models import video_parts
from i2vgen_jax.parallel import mesh as mesh_lib


def settings(config, **overrides):
  """What `make_generate` takes, from a run's config; `overrides` of config.sample, or of levels and
  inversion_steps of config.refine, that are None are left out.

  Raises:
    ValueError: other noise levels than the stage was trained on.
  """
  chosen = {name: config.refine[name] for name in ('levels', 'inversion_steps')}
  chosen |= dict(config.sample) | {k: v for k, v in overrides.items() if v is not None}
  for elsewhere in ('bucket', 'seed'):
    chosen.pop(elsewhere)
  if not bool(config.refine.levels) <= chosen['levels'] <= config.loss.timestep_range[1]:
    raise ValueError(
      f'levels={chosen["levels"]} must be at least 1, of a refinement stage, and lie within the '
      f'noise levels that were trained: {tuple(config.loss.timestep_range)}.'
    )
  return dict(chosen, prediction_type=config.loss.prediction_type)


def make_generate(
  components,
  mesh,
  *,
  prediction_type,
  num_steps,
  guidance_scale,
  guidance_rescale=0.0,
  sampler='ddim',
  spacing='leading',
  schedule='',
  eta=0.0,
  set_alpha_to_one=True,
  levels=0,
  inversion_steps=0,
  seed=0,
):
  """(params, frozen, inputs, noise_BFHWC) -> (latents_BFHWC float32, video_BFHWC uint8), jitted.

  Args:
    components: of the run.
    mesh: of the devices that sample; kernels are chosen for them.
    prediction_type: what the U-Net was trained to predict.
    num_steps: of the sampler; 50 in the release.
    guidance_scale: 9 in the release.
    guidance_rescale: see guidance.guided.
    sampler: a name in samplers.KINDS.
    spacing: of timesteps, see samplers.spaced_timesteps.
    schedule: kind of noise schedule to sample on; '' is the one trained on.
    eta: 0 for deterministic DDIM.
    set_alpha_to_one: see samplers.make_table.
    levels: of a refinement stage: noise levels that are laid on inputs['video'] and taken off
      again (SDEdit, Meng et al. 2022, arXiv:2108.01073); 0 starts from noise alone.
    inversion_steps: reach that noise level by as many steps of DDIM backwards, under the negative
      prompt, in place of adding noise; 0 adds noise.
    seed: of the noise that `eta` or the sampler adds.

  `inputs` is a dict as `prepare_inputs` makes; for a refinement stage with a uint8 'video' of as
  many frames and any size. The image's latents are the posterior's mean.

  Raises:
    ValueError: settings that are unknown or do not fit the schedule.
  """
  encoders, trained = components.encoders, components.schedule
  sampled = trained.like(schedule) if schedule else trained
  table = samplers.make_table(
    sampled, num_steps, kind=sampler, spacing=spacing, levels=levels or None, eta=eta,
    set_alpha_to_one=set_alpha_to_one,
  )  # fmt: skip
  if inversion_steps:
    inversion = samplers.inversion_table(trained, inversion_steps, levels)

  def start_of(denoise, frozen, video_BFHWC, noise_BFHWC):
    """z at the table's first timestep, of a video brought to the size of `noise_BFHWC`."""
    latents_BFHWC = encoders.encode_video(
      frozen, resize(video_BFHWC, *(encoders.downsampling * s for s in noise_BFHWC.shape[2:4]))
    )
    if inversion_steps:
      return samplers.sample(denoise, latents_BFHWC, inversion, prediction_type=prediction_type)
    timesteps_B = jnp.full(latents_BFHWC.shape[:1], table['timestep'][0])
    return loss.add_noise(latents_BFHWC, noise_BFHWC, timesteps_B, sampled)

  def generate(params, frozen, inputs, noise_BFHWC):
    conditioning = encoders.conditioning(
      frozen, inputs['token_ids'], inputs['image'], inputs['clip_image'], inputs['fps']
    )
    unconditional = conditioning | {
      'text': jnp.broadcast_to(
        encoders.encode_text(frozen, inputs['negative_token_ids']), conditioning['text'].shape
      ),
      'image_embedding': jnp.zeros_like(conditioning['image_embedding']),
    }

    def denoise(noisy_BFHWC, timesteps_B, conditioning):
      apply = video_parts.split_videos(components.unet.apply)
      return apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning)

    start_BFHWC = noise_BFHWC
    if levels:
      without = functools.partial(denoise, conditioning=unconditional)
      start_BFHWC = start_of(without, frozen, inputs['video'], noise_BFHWC)
    latents_BFHWC = samplers.sample(
      guidance.guided(denoise, conditioning, unconditional, guidance_scale, guidance_rescale),
      start_BFHWC,
      table,
      prediction_type=prediction_type,
      keys_B=row_keys(seed, noise_BFHWC.shape[0]),
    )
    return latents_BFHWC, encoders.decode_video(frozen, latents_BFHWC)

  return jax.jit(mesh_lib.within(mesh, generate))


def resize(video_BFHWC, height, width):
  """uint8 -> uint8 of another size, bilinear; averaged where it shrinks."""
  shape = (*video_BFHWC.shape[:2], height, width, video_BFHWC.shape[-1])
  resized = jax.image.resize(video_BFHWC.astype(jnp.float32), shape, 'linear')
  return jnp.clip(jnp.round(resized), 0, 255).astype(jnp.uint8)


def row_keys(seed, num):
  """One key per sample from (seed, row)."""
  return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(num))


def start_noise(components, seed, batch_size, frames, height, width, stage=0):
  """float32 (B, F, H/f, W/f, C) standard normal noise; row b depends on (seed, b, stage) alone."""
  shape = components.unet_inputs(frames, height, width)[0].shape[1:]
  keys_B = row_keys(seed, batch_size)
  if stage:
    # Beyond all timesteps, which are folded into the same keys.
    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 1_000_000 + stage))(keys_B)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)


def prepare_inputs(components, images, captions, *, height, width, fps, negative_prompt):
  """What `generate` takes, from pictures and captions.

  Args:
    components: of the run.
    images: PIL images of any size; centre-cropped and resized.
    captions: one for each.
    height: of the video, pixels.
    width: of the video, pixels.
    fps: the frame rate to condition on.
    negative_prompt: what to move away from.
  """
  images = [image.convert('RGB') for image in images]
  size = components.encoders.image_encoder.image_size
  return {
    'image': np.stack([crops.center_crop_resize(image, height, width) for image in images]),
    'clip_image': np.stack([crops.clip_square(image, width, size) for image in images]),
    'token_ids': components.tokenize(captions),
    'negative_token_ids': components.tokenize([negative_prompt]),
    'fps': np.full((len(images),), fps, np.float32),
  }


def check_size(components, frames, height, width):
  """Raises ValueError for a video that the model cannot make."""
  factor = components.encoders.downsampling
  if frames < 1:
    raise ValueError(f'frames={frames} must be at least 1.')
  if height < factor or width < factor or height % factor or width % factor:
    raise ValueError(f'size {width}x{height} must be multiples of {factor} pixels, the VAE factor.')


def open_image(path):
  """A PIL image.

  Raises:
    ValueError: no such file, or not a picture.
  """
  try:
    image = PIL.Image.open(path)
    image.load()
  # Pillow's plugins raise what they like at broken files.
  except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
    raise ValueError(f'image {path} cannot be read: {error}.') from error
  return image
