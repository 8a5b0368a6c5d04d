"""The paper's semantics of the image (Sec. 3.1, G.Enc): CLIP's vector plus a learned one."""

import flax.linen as nn
import jax

from i2vgen_jax.conditions import base, image_latent_tokens, image_tokens, signals


class GlobalImageTokens(base.Conditioner):
  """The paper's semantics of the image: its CLIP vector plus a learned one, to context tokens.

  The learned vector (the paper's G.Enc) is the mean of `ImageLatentTokens`, as wide as CLIP's.
  """

  signals = (signals.ImageEmbedding, signals.FrameLatents)
  route = 'context'
  ablated = 'global tokens'
  num_tokens: int = 4
  pool_size: int = 32

  @nn.compact
  def __call__(
    self,
    image_embedding_BV: jax.Array,
    image_latents_BHWC: jax.Array,
    num_frames: int,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    """(B, V) and (B, H, W, C) -> (B, num_tokens, D).

    Args:
      image_embedding_BV: CLIP's vector of the first frame.
      image_latents_BHWC: of the first frame.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    shared = dict(embedding_width=self.embedding_width, dropout=self.dropout, dtype=self.dtype)
    global_encoder = image_latent_tokens.ImageLatentTokens(
      pool_size=self.pool_size,
      route_width=image_embedding_BV.shape[-1],
      name='global_encoder',
      **shared,
    )
    to_tokens = image_tokens.ImageTokens(
      num_tokens=self.num_tokens, route_width=self.route_width, name='tokens', **shared
    )
    global_BLV = global_encoder(image_latents_BHWC, num_frames, dropout_keys_B)
    semantics_BV = image_embedding_BV + global_BLV.mean(1)
    return to_tokens(semantics_BV, num_frames, dropout_keys_B)
