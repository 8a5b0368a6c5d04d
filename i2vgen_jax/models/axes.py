"""The reshapes between a video and what a layer wants to see of it. All are free: no data moves.

Dimension key of this package: `B` batch, `F` frames, `H W` latent height and width, `C` channels,
`N = B*F` folded frames, `S = H*W` spatial tokens, `L` context tokens, `D` context width,
`E` embedding width, `A` attention heads, `K` size per head, `V` width of the CLIP image vector.
"""

import jax


def space_as_tokens(x_BFHWC: jax.Array) -> jax.Array:
  """(B, F, H, W, C) -> (B, F, H*W, C): the pixels of a frame as a row-major sequence."""
  *leading, height, width, channels = x_BFHWC.shape
  return x_BFHWC.reshape(*leading, height * width, channels)


def tokens_as_space(x_BFSC: jax.Array, height: int, width: int) -> jax.Array:
  """(B, F, H*W, C) -> (B, F, H, W, C): the inverse of space_as_tokens.

  Args:
    x_BFSC: tokens, row by row; other leading dims will do.
    height: rows of pixels.
    width: pixels of a row.
  """
  *leading, num_tokens, channels = x_BFSC.shape
  if num_tokens != height * width:
    raise ValueError(f'{num_tokens} tokens are not height={height} x width={width}.')
  return x_BFSC.reshape(*leading, height, width, channels)


def split_heads(x_C: jax.Array, num_heads: int) -> jax.Array:
  """(..., A*K) -> (..., A, K)."""
  *leading, channels = x_C.shape
  if channels % num_heads:
    raise ValueError(f'channels={channels} must divide over num_heads={num_heads}.')
  return x_C.reshape(*leading, num_heads, channels // num_heads)
