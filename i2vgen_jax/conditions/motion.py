"""How much moves, in the timestep embedding: a number that `curate` measures, or that a user asks
for. It may be unknown, and then says nothing.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.stream import fields
from i2vgen_jax.conditions import base
from i2vgen_jax.models import layers

# Clips move by 0.005 to 0.5 diagonals per second; timesteps, for which the sinusoids were made, go
# up to 1,000.
SCALE = 1000.0


class MotionStrength(base.Signal):
  """Mean optical flow, in frame diagonals per second, and whether it is known: (B, 2)."""

  name = 'motion'
  flags = {
    'motion': "How much moves: mean optical flow in frame diagonals per second, as the corpus' "
    'column motion (0.02 is calm, 0.2 wild); for models that are conditioned on it.'
  }
  dropout = 0.1
  drop_slot = None

  def fields(self) -> tuple[fields.Field, ...]:
    """The number, NaN where it is unknown."""
    return (fields.Motion(),)

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """(2,)."""
    return (2,)

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, 2) of (B,): the number and 1, or zeros where it is unknown; as Signal.encode."""
    known_B = jnp.isfinite(inputs['motion'])
    return jnp.stack([jnp.where(known_B, inputs['motion'], 0), known_B], -1).astype(jnp.float32)

  def of_request(self, request: base.Request) -> dict[str, np.ndarray]:
    """The number of --motion for every video, unknown without; raises ValueError if it is none."""
    text = request.more.get('motion', '')
    try:
      value = float(text or 'nan')
    except ValueError:
      value = -1.0
    if text and not 0 <= value < math.inf:
      raise ValueError(f'--motion={text} must be a number of 0 or more, in diagonals per second.')
    return {'motion': np.full((len(request.captions),), value, np.float32)}


class Motion(base.Conditioner):
  """(B, 2) of MotionStrength, embedded in float32 as the timestep is. Starts at zero."""

  signals = (MotionStrength,)
  route = 'embedding'
  ablated = 'motion strength'

  @nn.compact
  def __call__(
    self, motion_B2: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, 2) -> (B, E).

    Args:
      motion_B2: diagonals per second, and 1 where that is known.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    h = layers.sinusoid(SCALE * motion_B2[:, 0], self.embedding_width // 4)
    h = nn.silu(layers.Dense(self.embedding_width, name='linear_0')(h)) * motion_B2[:, 1:]
    return layers.Dense(self.embedding_width, zero=('kernel', 'bias'), name='linear_2')(h)
