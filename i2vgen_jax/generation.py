"""From an image and a caption to a video: condition, denoise by DDIM with guidance, decode.

Spec of the release's inference: guidance between {caption, CLIP image} and {negative prompt,
zeros}; the image's latents and the fps are the same on both sides, so that guidance never acts on
them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

from data_pipelines import transforms
from i2vgen_jax.diffusion import guidance, sampler


def make_generate(
  components, *, prediction_type, num_steps, guidance_scale, eta=0.0, set_alpha_to_one=True, seed=0
):
  """(params, frozen, inputs, noise_BFHWC) -> (latents_BFHWC float32, video_BFHWC uint8), jitted.

  Args:
    components: of the run.
    prediction_type: what the U-Net was trained to predict.
    num_steps: DDIM steps; 50 in the release.
    guidance_scale: 9 in the release.
    eta: 0 for deterministic DDIM.
    set_alpha_to_one: see sampler.ddim.
    seed: of the noise that `eta` adds.

  `inputs` is a dict as `prepare_inputs` makes. The image's latents are the posterior's mean.

  Raises:
    ValueError: `num_steps` does not fit the schedule.
  """
  sampler.leading_timesteps(num_steps, components.schedule.num_timesteps)
  encoders = components.encoders

  @jax.jit
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
      return components.unet.apply({'params': params}, noisy_BFHWC, timesteps_B, conditioning)

    latents_BFHWC = sampler.ddim(
      guidance.guided(denoise, conditioning, unconditional, guidance_scale),
      noise_BFHWC,
      components.schedule,
      num_steps,
      prediction_type=prediction_type,
      eta=eta,
      set_alpha_to_one=set_alpha_to_one,
      keys_B=row_keys(seed, noise_BFHWC.shape[0]) if eta else None,
    )
    return latents_BFHWC, encoders.decode_video(frozen, latents_BFHWC)

  return generate


def row_keys(seed, num):
  """One key per sample from (seed, row)."""
  return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(seed), row))(jnp.arange(num))


def start_noise(components, seed, batch_size, frames, height, width):
  """float32 (B, F, H/f, W/f, C) standard normal noise; row b depends on (seed, b) alone."""
  shape = components.unet_inputs(frames, height, width)[0].shape[1:]
  return jax.vmap(lambda key: jax.random.normal(key, shape))(row_keys(seed, batch_size))


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
    'image': np.stack([transforms.center_crop_resize(image, height, width) for image in images]),
    'clip_image': np.stack([transforms.clip_square(image, width, size) for image in images]),
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
  except (OSError, PIL.Image.DecompressionBombError) as error:
    raise ValueError(f'image {path} cannot be read: {error}.') from error
  return image
