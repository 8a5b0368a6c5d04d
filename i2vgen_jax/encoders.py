"""The frozen networks, and what they make of a batch: latents to denoise, and the conditions to
denoise by.

Paper Sec. 3: the VAE gives latents and details of the first frame, CLIP its semantics and the
caption's. All outputs are float32; random draws are keyed per sample.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.models import clip, tiling, vae, video_parts

# OpenAI CLIP's image statistics, RGB.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


@dataclasses.dataclass(frozen=True)
class Encoders:
  """VAE and CLIP towers as functions of their parameters `frozen` = {vae, text_encoder,
  image_encoder, null_text}."""

  vae: vae.AutoencoderKL
  text_encoder: clip.CLIPText
  image_encoder: clip.CLIPVision
  scaling_factor: float
  frames_per_chunk: int
  tile: int = 0  # Latents; larger frames are decoded in overlapping squares. 0 is whole.
  tile_overlap: int = 16  # Latents.

  @classmethod
  def from_config(cls, config):
    """From the blocks config.vae, config.text_encoder, config.image_encoder."""
    dtype = jnp.dtype(config.dtype)
    return cls(
      vae=vae.AutoencoderKL(**config.vae.model, dtype=dtype),
      text_encoder=clip.CLIPText(**config.text_encoder.model, dtype=dtype),
      image_encoder=clip.CLIPVision(**config.image_encoder.model, dtype=dtype),
      scaling_factor=config.vae.scaling_factor,
      frames_per_chunk=config.vae.frames_per_chunk,
      tile=config.vae.tile,
      tile_overlap=config.vae.tile_overlap,
    )

  def __post_init__(self):
    if self.tile and not 0 < self.tile_overlap <= self.tile // 2:
      raise ValueError(
        f'vae.tile_overlap={self.tile_overlap} must be between 1 and half of vae.tile={self.tile}.'
      )

  @property
  def downsampling(self):
    """Pixels per latent, along height and width."""
    return 2 ** (len(self.vae.block_channels) - 1)

  def init(self, key):
    """Random parameters of the three networks; jit- and eval_shape-able."""
    keys = jax.random.split(key, 3)
    pixels = self.downsampling * 2
    size = self.image_encoder.image_size
    return {
      'vae': self.vae.init(keys[0], jnp.zeros((1, pixels, pixels, 3)))['params'],
      'text_encoder': self.text_encoder.init(
        keys[1], jnp.zeros((1, self.text_encoder.max_length), jnp.int32)
      )['params'],
      'image_encoder': self.image_encoder.init(keys[2], jnp.zeros((1, size, size, 3)))['params'],
    }

  def encode_video(self, frozen, video_BFHWC, keys_B=None):
    """Scaled latents of uint8 pixels.

    Args:
      frozen: parameters.
      video_BFHWC: uint8 RGB; height and width multiples of `downsampling`.
      keys_B: one key per video draws from the posterior; None takes its mean.

    Returns:
      float32 (B, F, H/f, W/f, latent channels), about unit variance.
    """

    mean_BFHWC, logvar_BFHWC = self.moments(frozen, video_BFHWC)
    return self.draw_latents(mean_BFHWC, logvar_BFHWC, keys_B)

  def moments(self, frozen, video_BFHWC):
    """Mean and log-variance of the posterior of uint8 pixels, float32 in the VAE's own units."""

    def encode(params, frames_BHWC):
      pixels_BHWC = frames_BHWC.astype(jnp.float32) / 127.5 - 1
      return self.vae.apply({'params': params}, pixels_BHWC, method='encode')

    return self._over_frames(encode, frozen, video_BFHWC)

  def draw_latents(self, mean_BFHWC, logvar_BFHWC, keys_B=None):
    """Scaled latents of a posterior; None for keys_B takes its mean."""
    if keys_B is not None:
      noise_BFHWC = jax.vmap(lambda key: jax.random.normal(key, mean_BFHWC.shape[1:]))(keys_B)
      mean_BFHWC = mean_BFHWC + jnp.exp(0.5 * logvar_BFHWC) * noise_BFHWC
    return mean_BFHWC * self.scaling_factor

  def decode_video(self, frozen, latents_BFHWC):
    """uint8 pixels of scaled latents."""

    def decode(params, latents_BHWC):
      pixels_BHWC = tiling.apply_in_tiles(
        lambda part: self.vae.apply({'params': params}, part, method='decode'),
        latents_BHWC,
        self.tile,
        self.tile_overlap,
        self.downsampling,
      )
      return jnp.clip(jnp.round((pixels_BHWC + 1) * 127.5), 0, 255).astype(jnp.uint8)

    return self._over_frames(decode, frozen, latents_BFHWC / self.scaling_factor)

  def _over_frames(self, function, frozen, video_BFHWC):
    """Applies a function of the VAE's parameters and (B, ...) to `frames_per_chunk` frames at a
    time; the batch dim stays sharded, and a video over `context`."""

    def of_videos(params, video_BFHWC):
      video_FBHWC = jnp.swapaxes(video_BFHWC, 0, 1)
      chunk = min(self.frames_per_chunk, video_FBHWC.shape[0])
      result_FB = jax.lax.map(functools.partial(function, params), video_FBHWC, batch_size=chunk)
      return jax.tree.map(lambda result: jnp.swapaxes(result, 0, 1), result_FB)

    if video_BFHWC.shape[1] > 1:  # An image alone is encoded by all devices of `context` alike.
      of_videos = video_parts.split_videos(of_videos)
    return of_videos(frozen['vae'], video_BFHWC)

  def encode_text(self, frozen, token_ids_BL):
    """float32 (B, L, D): the penultimate layer after the final norm, as the release conditions
    on."""
    return self.text_encoder.apply({'params': frozen['text_encoder']}, token_ids_BL)

  def encode_image(self, frozen, clip_image_BHWC):
    """float32 (B, V) of uint8 square images: pooled and projected, not normalised."""
    pixels_BHWC = (clip_image_BHWC.astype(jnp.float32) / 255 - CLIP_MEAN) / CLIP_STD
    return self.image_encoder.apply({'params': frozen['image_encoder']}, pixels_BHWC)

  def conditioning(self, frozen, token_ids_BL, image_BHWC, clip_image_BHWC, fps_B, keys_B=None):
    """The four conditions of the U-Net by name.

    Args:
      frozen: parameters.
      token_ids_BL: int32 captions.
      image_BHWC: uint8 first frame at the video's size.
      clip_image_BHWC: uint8 first frame, square.
      fps_B: frames per second.
      keys_B: as in `encode_video`; the image's latents are a draw of their own, as released.
    """
    image_latents_BFHWC = self.encode_video(frozen, image_BHWC[:, None], keys_B)
    return {
      'text': self.encode_text(frozen, token_ids_BL),
      'image_embedding': self.encode_image(frozen, clip_image_BHWC),
      'image_latents': image_latents_BFHWC[:, 0],
      'fps': fps_B.astype(jnp.float32),
    }

  def encode_batch(self, frozen, batch, keys_B, image_keys_B):
    """(latents_BFHWC, conditioning) of a training batch: of pixels, or of what precompute.py made
    of them (data_pipelines/stream/cache.py).

    Args:
      frozen: parameters.
      batch: see data_pipelines.stream.stream.TrainStream.
      keys_B, image_keys_B: draw the video's latents, and those of its first frame as a condition.
    """
    if 'video' in batch:
      latents_BFHWC = self.encode_video(frozen, batch['video'], keys_B)
      return latents_BFHWC, self.conditioning(
        frozen, batch['token_ids'], batch['video'][:, 0], batch['clip_image'], batch['fps'],
        image_keys_B,
      )  # fmt: skip
    moments = [batch[name].astype(jnp.float32) for name in ('latent_mean', 'latent_logvar')]
    first = self.draw_latents(*(moment[:, :1] for moment in moments), image_keys_B)
    return self.draw_latents(*moments, keys_B), {
      'text': batch['text'].astype(jnp.float32),
      'image_embedding': batch['image_embedding'].astype(jnp.float32),
      'image_latents': first[:, 0],
      'fps': batch['fps'].astype(jnp.float32),
    }

  def null_conditions(self, frozen):
    """What a dropped condition becomes: the negative prompt's text, zeros elsewhere; fps is never
    dropped."""
    return {
      'text': frozen['null_text'],
      'image_embedding': jnp.zeros(()),
      'image_latents': jnp.zeros(()),
    }
