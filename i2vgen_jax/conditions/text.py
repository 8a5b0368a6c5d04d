"""The caption by CLIP, as context tokens."""

import flax.linen as nn

from i2vgen_jax.conditions import base, signals


class Text(base.Conditioner):
  """Caption tokens, (B, L, D), as they are."""

  signals = (signals.Caption,)
  route = 'context'

  @nn.compact
  def __call__(self, text_BLD, num_frames, dropout_keys_B):
    """(B, L, D) -> the same; raises ValueError for tokens of another width than the context's."""
    if text_BLD.shape[-1] != self.route_width:
      raise ValueError(
        f'unet.context_dim={self.route_width} must equal text_encoder.model.hidden_size='
        f'{text_BLD.shape[-1]}: the caption is the context.'
      )
    return text_BLD
