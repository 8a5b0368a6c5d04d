"""The frame rate, in the timestep embedding."""

import flax.linen as nn
import jax

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import layers


class Fps(base.Conditioner):
  """Frames per second, (B,), embedded in float32 as the timestep is. Starts at zero."""

  signals = (signals.FrameRate,)
  route = 'embedding'

  @nn.compact
  def __call__(
    self, fps_B: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B,) -> (B, E).

    Args:
      fps_B: frames per second.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    h = layers.sinusoid(fps_B, self.embedding_width // 4)
    h = nn.silu(layers.Dense(self.embedding_width, name='linear_0')(h))
    return layers.Dense(self.embedding_width, zero=('kernel', 'bias'), name='linear_2')(h)
