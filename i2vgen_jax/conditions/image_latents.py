"""The release's details of the image: its latents as channels beside the noise."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import attention, layers, video_parts


class ImageLatents(base.Conditioner):
  """Image latents, (B, H, W, C), as frame 0 of a sequence whose other frames mark positions.

  A subclass may place the picture at the other end.
  """

  signals = (signals.FrameLatents,)
  route = 'concat'
  ablated = 'detail latents'

  @nn.compact
  def __call__(
    self, image_latents_BHWC: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, H, W, C) -> (B, F, H, W, C).

    Args:
      image_latents_BHWC: of the first frame.
      num_frames: F.
      dropout_keys_B: a key per sample, or None for no dropout.
    """
    channels = image_latents_BHWC.shape[-1]
    h = video_parts.own_part(self.sequence(image_latents_BHWC, num_frames), 1)
    h = nn.silu(layers.Conv(4 * channels, dtype=self.dtype, name='proj_in_0')(h))
    h = nn.silu(layers.Conv(4 * channels, dtype=self.dtype, name='proj_in_2')(h))
    h = layers.Conv(self.route_width, dtype=self.dtype, name='proj_in_4')(h)
    adapter = attention.FrameAdapter(self.dropout, self.dtype, name='temporal_encoder')
    return adapter(h, dropout_keys_B)

  def sequence(self, image_latents_BHWC: jax.Array, num_frames: int) -> jax.Array:
    """(B, H, W, C) -> (B, F, H, W, C): the image, then constant frames k/(F-1) for k = 1..F-1."""
    positions_F = jnp.arange(1, num_frames) / max(num_frames - 1, 1)
    batch_size, *shape = image_latents_BHWC.shape
    marks = jnp.broadcast_to(
      positions_F[None, :, None, None, None], (batch_size, num_frames - 1, *shape)
    )
    return jnp.concatenate([image_latents_BHWC[:, None], marks.astype(image_latents_BHWC.dtype)], 1)
