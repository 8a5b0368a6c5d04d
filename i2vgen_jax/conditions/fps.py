"""The frame rate, in the timestep embedding."""

import flax.linen as nn

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import layers


class Fps(base.Conditioner):
  """Frames per second, (B,), embedded in float32 as the timestep is. Starts at zero."""

  signals = (signals.FrameRate,)
  route = 'embedding'

  @nn.compact
  def __call__(self, fps_B, num_frames, dropout_keys_B):
    """(B,) -> (B, E)."""
    h = layers.sinusoid(fps_B, self.embedding_width // 4)
    h = nn.silu(layers.Dense(self.embedding_width, name='linear_0')(h))
    return layers.Dense(self.embedding_width, zero=('kernel', 'bias'), name='linear_2')(h)
