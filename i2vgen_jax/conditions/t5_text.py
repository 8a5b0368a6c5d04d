"""The caption by T5's encoder, as Imagen reads it (Saharia et al. 2022, arXiv:2205.11487), alone or
beside CLIP's.

  config.unet.conditioners = (dict(kind='t5_text'), *common.CONDITIONERS[1:])
  config.t5 = common.t5('xxl')     and on the command line its weights and tokenizer
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath

from i2vgen_jax.conditions import base, signals
from i2vgen_jax.models import layers, t5
from i2vgen_jax.pretrained import tokenizers
from i2vgen_jax.process import paths


class T5Caption(signals.Tokens):
  """The caption by T5: (B, L, D), zero where a caption is padded."""

  name = 't5_text'
  networks = ('t5',)
  field = 't5_token_ids'

  def make_tokenize(self) -> Callable[[Sequence[str]], np.ndarray]:
    """Tokenizes by the run's own copy of the tokenizer, or by config.t5.tokenizer."""
    return tokenizers.t5(self.folder(), self.module.vocab_size, self.module.max_length, t5.PAD_ID)

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, L, D) of (B, L); as Signal.encode."""
    is_word_BL = inputs[self.field] != t5.PAD_ID
    return super().encode(frozen, inputs) * is_word_BL[..., None]

  def keep_files(self, workdir: epath.PathLike) -> None:
    """Copies the tokenizer."""
    copy = f'{workdir}/t5_tokenizer'
    tokenizers.copy_files(tokenizers.T5_FILES, paths.find(self.folder()), copy)

  def folder(self) -> str:
    """Where its tokenizer lies."""
    given, start = self.config.t5.tokenizer, self.config.start
    return tokenizers.folder('t5_tokenizer', given, start, self.workdir)


class T5Text(base.Conditioner):
  """T5's tokens, (B, L, D), projected to the context's width."""

  signals = (T5Caption,)
  route = 'context'
  ablated = 'T5'

  @nn.compact
  def __call__(
    self, text_BLD: jax.Array, num_frames: int, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, L, D) -> (B, L, context width).

    Args:
      text_BLD: of T5Caption.
      num_frames: not used.
      dropout_keys_B: not used.
    """
    # Without a bias, so that padding stays zero.
    project = layers.Dense(self.route_width, use_bias=False, dtype=self.dtype, name='projection')
    return project(text_BLD)
