"""The release's global encoder of the image: its latents as context tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import layers


class ImageLatentTokens(base.Conditioner):
  """Image latents, (B, H, W, C), of any size, to (pool_size / 4)^2 context tokens, row-major."""

  signals = (signals.FrameLatents,)
  route = 'context'
  ablated = 'global tokens'
  pool_size: int = 32

  @nn.compact
  def __call__(
    self, image_latents_BHWC: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, H, W, C) -> (B, L, D).

    Args:
      image_latents_BHWC: of the first frame.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    channels = image_latents_BHWC.shape[-1]
    h = layers.Conv(8 * channels, dtype=self.dtype, name='conv_0')(image_latents_BHWC)
    h = adaptive_average_pool(nn.silu(h), self.pool_size)
    h = layers.Conv(16 * channels, stride=2, dtype=self.dtype, name='conv_3')(h)
    h = layers.Conv(self.route_width, stride=2, dtype=self.dtype, name='conv_5')(nn.silu(h))
    return h.reshape(h.shape[0], -1, self.route_width)


def adaptive_average_pool(x_BHWC: jax.Array, size: int) -> jax.Array:
  """(B, H, W, C) -> (B, size, size, C): torch's AdaptiveAvgPool2d, also for H or W below `size`."""
  height, width = x_BHWC.shape[1:3]
  return jnp.einsum(
    'uh,vw,bhwc->buvc',
    _pooling_matrix(height, size),
    _pooling_matrix(width, size),
    x_BHWC.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  ).astype(x_BHWC.dtype)


def _pooling_matrix(num_inputs: int, num_bins: int) -> np.ndarray:
  """(num_bins, num_inputs): bin i averages [floor(i n / bins), ceil((i + 1) n / bins))."""
  matrix = np.zeros((num_bins, num_inputs), np.float32)
  for i in range(num_bins):
    start = i * num_inputs // num_bins
    stop = -(-(i + 1) * num_inputs // num_bins)
    matrix[i, start:stop] = 1 / (stop - start)
  return matrix
