"""Names of the tensors of T5's encoder: transformers', in files of the encoder or of all of T5."""

import re
from typing import Any

from i2vgen_jax.pretrained import tensors

# Ours -> transformers', outside the blocks and within one.
_OUTSIDE = {
  'token_embedding': 'shared',
  'position_bias': 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias',
  'final_norm': 'encoder.final_layer_norm',
}
_BLOCK = {
  'attention_norm': 'layer.0.layer_norm',
  'attention': 'layer.0.SelfAttention',
  'feed_forward_norm': 'layer.1.layer_norm',
  'feed_forward': 'layer.1.DenseReluDense',
}
_IGNORED = {
  r'decoder\.': 'the decoder of all of T5',
  r'lm_head\.': "the decoder's output",
}


def name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.t5.T5Encoder`."""
  *modules, leaf = path.split('/')
  leaf = tensors.LEAF_NAMES[leaf]
  if modules[0] in _OUTSIDE:
    return f'{_OUTSIDE[modules[0]]}.{leaf}'
  block, part, *matrix = modules
  match: Any = re.fullmatch(r'block_(\d+)', block)
  return '.'.join(['encoder.block', match[1], _BLOCK[part], *matrix, leaf])


def formats(encoder: Any) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.t5.T5Encoder`."""
  return (
    tensors.Format(
      'T5 of transformers',
      ignored={r'encoder\.embed_tokens\.weight$': 'shared.weight once more'} | _IGNORED,
    ),
    tensors.Format('T5 of transformers, its embedding within the encoder', _within, _IGNORED),
  )


def unseen_fields(encoder: Any) -> dict[str, Any]:
  """Fields of transformers' config.json that no tensor's shape shows, as an encoder has them."""
  return dict(
    feed_forward_proj=encoder.activation,
    layer_norm_epsilon=encoder.epsilon,
    relative_attention_max_distance=encoder.max_distance,
  )


def _within(name: str) -> tensors.Slot:
  return tensors.Slot('encoder.embed_tokens.weight' if name == 'shared.weight' else name)
