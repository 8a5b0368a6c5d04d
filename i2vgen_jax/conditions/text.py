"""The caption by CLIP, as context tokens."""

import flax.linen as nn
import jax

from i2vgen_jax.conditions import base, signals


class Text(base.Conditioner):
  """Caption tokens, (B, L, D), unchanged."""

  signals = (signals.Caption,)
  route = 'context'

  @nn.compact
  def __call__(
    self, text_BLD: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, L, D) -> the same.

    Args:
      text_BLD: of signals.Caption.
      num_frames: not used.
      dropout_keys_B: not used.

    Raises:
      ValueError: the tokens are not as wide as the context.
    """
    if text_BLD.shape[-1] != self.route_width:
      raise ValueError(
        f'unet.context_dim={self.route_width} must equal text_encoder.model.hidden_size='
        f'{text_BLD.shape[-1]}: the caption is the context.'
      )
    return text_BLD
