"""The image's semantics: its CLIP vector as a few context tokens."""

import flax.linen as nn
import jax

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import layers


class ImageTokens(base.Conditioner):
  """CLIP vector of the image, (B, V), to `num_tokens` context tokens."""

  signals = (signals.ImageEmbedding,)
  route = 'context'
  ablated = 'CLIP'
  num_tokens: int = 4

  @nn.compact
  def __call__(
    self, image_embedding_BV: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, V) -> (B, num_tokens, D).

    Args:
      image_embedding_BV: CLIP's vector of the first frame.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    h = layers.Dense(self.embedding_width, dtype=self.dtype, name='linear_0')(image_embedding_BV)
    width = self.num_tokens * self.route_width
    tokens = layers.Dense(width, dtype=self.dtype, name='linear_2')(nn.silu(h))
    return tokens.reshape(-1, self.num_tokens, self.route_width)
