"""Attention, feed-forward, and the two transformers of the U-Net: over the pixels of a frame, and over frames.

A video stays (B, F, S, C) throughout: what a layer attends over is told by the dims of its einsum, not by a transpose.
Softmax is float32.

Dimension key: B batch, F (G: as keys) frames, S (T: as keys) spatial tokens, L context tokens, A heads, K head size.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from i2vgen_jax.models import axes, layers

# Per kind: einsum of queries and keys to logits, and of weights and values to the output.
EINSUMS = {
  'pixels': ('bfsak,bftak->bfast', 'bfast,bftak->bfsak'),
  'frames': ('bfsak,bgsak->bsafg', 'bsafg,bgsak->bfsak'),
  # The context belongs to the video: its keys and values are made once, not once per frame.
  'context': ('bfsak,blak->bafsl', 'bafsl,blak->bfsak'),
}


class Attention(nn.Module):
  """Multi-head attention over the frame's pixels, over frames, or over a context."""

  over: Literal['pixels', 'frames', 'context']
  num_heads: int
  head_dim: int
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFSC, context_BLD=None, dropout_keys_B=None):
    source = context_BLD if self.over == 'context' else x_BFSC
    q, k, v = (
      axes.split_heads(self._project(name)(x), self.num_heads)
      for name, x in (('to_q', x_BFSC), ('to_k', source), ('to_v', source))
    )
    to_logits, to_output = EINSUMS[self.over]
    logits = jnp.einsum(to_logits, q * self.head_dim**-0.5, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits, -1).astype(self.dtype)
    output_BFSC = axes.merge_heads(jnp.einsum(to_output, weights, v))
    output_BFSC = layers.Dense(x_BFSC.shape[-1], dtype=self.dtype, name='to_out_0')(output_BFSC)
    return layers.Dropout(self.dropout, name='dropout')(output_BFSC, dropout_keys_B)

  def _project(self, name):
    width = self.num_heads * self.head_dim
    return layers.Dense(width, use_bias=False, dtype=self.dtype, name=name)


class FeedForward(nn.Module):
  """Two dense layers, four times as wide inside, with exact GELU; gated: value * gelu(gate) (Shazeer 2020)."""

  gated: bool = True
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFSC, dropout_keys_B=None):
    channels = x_BFSC.shape[-1]
    width = 4 * channels * (2 if self.gated else 1)
    h = layers.Dense(width, dtype=self.dtype, name='net_0_proj')(x_BFSC)
    if self.gated:
      value, gate = jnp.split(h, 2, -1)
      h = value * jax.nn.gelu(gate, approximate=False)
    else:
      h = jax.nn.gelu(h, approximate=False)
    h = layers.Dropout(self.dropout, name='dropout')(h, dropout_keys_B)
    return layers.Dense(channels, dtype=self.dtype, name='net_2')(h)


class TransformerBlock(nn.Module):
  """Self-attention, a second attention (self or context), feed-forward; each normed before and added after."""

  attentions: tuple[str, str]
  num_heads: int
  head_dim: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFSC, context_BLD=None):
    for i, over in enumerate(self.attentions, start=1):
      h = layers.LayerNorm(self.dtype, name=f'norm{i}')(x_BFSC)
      attention = Attention(over, self.num_heads, self.head_dim, dtype=self.dtype, name=f'attn{i}')
      x_BFSC = x_BFSC + attention(h, context_BLD)
    h = layers.LayerNorm(self.dtype, name='norm3')(x_BFSC)
    return x_BFSC + FeedForward(dtype=self.dtype, name='ff')(h)


class SpatialTransformer(nn.Module):
  """Attention within each frame, then from each frame to the context. Starts as the identity."""

  num_heads: int
  head_dim: int
  norm_groups: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, context_BLD):
    norm = layers.GroupNorm(self.norm_groups, epsilon=1e-6, dtype=self.dtype, name='norm')
    block = TransformerBlock(
      ('pixels', 'context'), self.num_heads, self.head_dim, self.dtype, name='transformer_blocks_0'
    )
    return _transform(x_BFHWC, norm, block, self.num_heads * self.head_dim, self.dtype, context_BLD)


class TemporalTransformer(nn.Module):
  """Attention over frames at each pixel, twice. Starts as the identity.

  There is no position encoding: order is seen through the temporal convolutions and the image latents' position marks.
  """

  num_heads: int
  head_dim: int
  norm_groups: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC):
    norm = layers.GroupNorm(
      self.norm_groups, over_frames=True, epsilon=1e-6, dtype=self.dtype, name='norm'
    )
    block = TransformerBlock(
      ('frames', 'frames'), self.num_heads, self.head_dim, self.dtype, name='transformer_blocks_0'
    )
    return _transform(x_BFHWC, norm, block, self.num_heads * self.head_dim, self.dtype)


def _transform(x_BFHWC, norm, block, inner_width, dtype, *context):
  """Norm, project in, transform the pixels as tokens, project out (zero at start), add to the input."""
  height, width, channels = x_BFHWC.shape[2:]
  h_BFSC = axes.space_as_tokens(norm(x_BFHWC))
  h_BFSC = layers.Dense(inner_width, dtype=dtype, name='proj_in')(h_BFSC)
  h_BFSC = block(h_BFSC, *context)
  h_BFSC = layers.Dense(channels, zero=('kernel', 'bias'), dtype=dtype, name='proj_out')(h_BFSC)
  return x_BFHWC + axes.tokens_as_space(h_BFSC, height, width)


class FrameAdapter(nn.Module):
  """One small transformer layer over frames for the image latents; no norm before its feed-forward (as in VGen)."""

  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, dropout_keys_B):
    height, width, channels = x_BFHWC.shape[2:]
    x_BFSC = axes.space_as_tokens(x_BFHWC)
    attention = Attention('frames', 2, channels, self.dropout, self.dtype, name='attn1')
    h = layers.LayerNorm(self.dtype, name='norm1')(x_BFSC)
    x_BFSC = x_BFSC + attention(h, dropout_keys_B=dropout_keys_B)
    feed_forward = FeedForward(False, self.dropout, self.dtype, name='ff')
    x_BFSC = x_BFSC + feed_forward(x_BFSC, dropout_keys_B)
    return axes.tokens_as_space(x_BFSC, height, width)
