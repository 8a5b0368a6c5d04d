"""The paper's details of the image (Sec. 3.1, D.Enc): its latents added to the noise."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import video_parts


class FirstFrameLatents(base.Conditioner):
  """The paper's details of the image: latents, (B, H, W, C), added to the noise of frame 0."""

  signals = (signals.FrameLatents,)
  route = 'noise'
  ablated = 'detail latents'

  @nn.compact
  def __call__(
    self, image_latents_BHWC: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, H, W, C) -> (B, F, H, W, C), zero after frame 0.

    Args:
      image_latents_BHWC: of the first frame.
      num_frames: F.
      dropout_keys_B: not used.
    """
    frames = jnp.pad(image_latents_BHWC[:, None], [(0, 0), (0, num_frames - 1)] + [(0, 0)] * 3)
    return video_parts.own_part(frames, 1)
