"""Videos to scaled latents and back, by a VAE that sees a few frames at a time.

Paper Sec. 3.1. All outputs are float32 or uint8; random draws are keyed per sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from i2vgen_jax.models import tiling, vae, video_parts


@dataclasses.dataclass(frozen=True)
class Autoencoder:
  """A VAE as functions of `frozen`, whose entry 'vae' holds its parameters.

  Attributes:
    vae: the Flax module.
    scaling_factor: factor that brings latents to about unit variance.
    frames_per_chunk: how many frames the VAE sees at a time.
    tile: larger frames are decoded in overlapping squares of so many latents; 0 decodes them whole.
    tile_overlap: how many latents two neighbouring squares share.
  """

  vae: vae.AutoencoderKL
  scaling_factor: float
  frames_per_chunk: int
  tile: int = 0
  tile_overlap: int = 16

  def __post_init__(self) -> None:
    if self.tile and not 0 < self.tile_overlap <= self.tile // 2:
      raise ValueError(
        f'vae.tile_overlap={self.tile_overlap} must be between 1 and half of vae.tile={self.tile}.'
      )

  @property
  def downsampling(self) -> int:
    """Pixels per latent, along height and width."""
    return 2 ** (len(self.vae.block_channels) - 1)

  def encode_video(
    self, frozen: Mapping[str, Any], video_BFHWC: jax.Array, keys_B: jax.Array | None = None
  ) -> jax.Array:
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

  def moments(
    self, frozen: Mapping[str, Any], video_BFHWC: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of the posterior of uint8 pixels, float32 in the VAE's own units."""

    def encode(params, frames_BHWC):
      pixels_BHWC = frames_BHWC.astype(jnp.float32) / 127.5 - 1
      return self.vae.apply({'params': params}, pixels_BHWC, method='encode')

    return self._over_frames(encode, frozen, video_BFHWC)

  def draw_latents(
    self, mean_BFHWC: jax.Array, logvar_BFHWC: jax.Array, keys_B: jax.Array | None = None
  ) -> jax.Array:
    """Scaled latents of a posterior; None for keys_B takes its mean.

    Args:
      mean_BFHWC: mean of the posterior, in the VAE's own units.
      logvar_BFHWC: its log-variance, same shape.
      keys_B: one key per video, or None.
    """
    if keys_B is not None:
      noise_BFHWC = jax.vmap(lambda key: jax.random.normal(key, mean_BFHWC.shape[1:]))(keys_B)
      mean_BFHWC = mean_BFHWC + jnp.exp(0.5 * logvar_BFHWC) * noise_BFHWC
    return mean_BFHWC * self.scaling_factor

  def decode_video(self, frozen: Mapping[str, Any], latents_BFHWC: jax.Array) -> jax.Array:
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

  def _over_frames(
    self,
    function: Callable[[Any, jax.Array], Any],
    frozen: Mapping[str, Any],
    video_BFHWC: jax.Array,
  ) -> Any:
    """Applies a function of the VAE's parameters and (B, ...) to `frames_per_chunk` frames at a
    time; the batch dim stays sharded, and a video over `context`."""

    def of_videos(params, video_BFHWC):
      video_FBHWC = jnp.swapaxes(video_BFHWC, 0, 1)
      chunk = min(self.frames_per_chunk, video_FBHWC.shape[0])
      result_FB = jax.lax.map(functools.partial(function, params), video_FBHWC, batch_size=chunk)
      return jax.tree.map(lambda result: jnp.swapaxes(result, 0, 1), result_FB)

    if video_BFHWC.shape[1] > 1:  # All devices of `context` encode an image alike.
      of_videos = video_parts.split_videos(of_videos)
    return of_videos(frozen['vae'], video_BFHWC)
