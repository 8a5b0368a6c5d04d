"""Attention, feed-forward, and the two transformers of the U-Net: within a frame, and over frames.

A video stays (B, F, S, C) throughout: the dims of a layer's einsum say what it attends over, and
nothing is transposed. Softmax is float32.

Dimension key: B batch, F (as keys: G) frames, S (as keys: T) spatial tokens, L context tokens,
D context width, C channels, A heads, K head size.
"""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from i2vgen_jax.models import axes, kernels, layers, pallas_feed_forward, video_parts


class GrowingContext(NamedTuple):
  """Context tokens to which others are joined by degrees.

  Attributes:
    before_BLD: what the model attended to before.
    all_BLD: these and the new ones.
    share_B: of attention to all in the output, 0 to 1; the rest is attention to those before.
  """

  before_BLD: jax.Array
  all_BLD: jax.Array
  share_B: jax.Array


Context = jax.Array | GrowingContext


class Attention(nn.Module):
  """Multi-head attention over the frame's pixels, over frames, or over a context."""

  over: kernels.Over
  num_heads: int
  head_dim: int
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_BFSC: jax.Array,
    context: Context | None = None,
    dropout_keys_B: jax.Array | None = None,
  ) -> jax.Array:
    """Returns (B, F, S, C); the context is read only by attention over 'context'.

    Args:
      x_BFSC: features of a video; the queries.
      context: context tokens (B, L, D), or some that grow; needed where `over` is 'context'.
      dropout_keys_B: a jax.random key per sample, or None for no dropout.
    """
    source: Any = context if self.over == 'context' else x_BFSC
    width = self.num_heads * self.head_dim
    to_q, to_k, to_v = (
      layers.Dense(width, use_bias=False, dtype=self.dtype, name=name)
      for name in ('to_q', 'to_k', 'to_v')
    )
    q_BFSC = to_q(x_BFSC)

    def attend(source: jax.Array) -> jax.Array:
      return kernels.attend(self.over, q_BFSC, to_k(source), to_v(source), self.num_heads)

    if isinstance(source, GrowingContext):
      before_BFSC, all_BFSC = attend(source.before_BLD), attend(source.all_BLD)
      share = source.share_B.astype(before_BFSC.dtype)[:, None, None, None]
      output_BFSC = (1 - share) * before_BFSC + share * all_BFSC  # At 0 and 1, to the bit.
    else:
      output_BFSC = attend(source)
    output_BFSC = layers.Dense(x_BFSC.shape[-1], dtype=self.dtype, name='to_out_0')(output_BFSC)
    return layers.Dropout(self.dropout, layers.PIXELS, name='dropout')(output_BFSC, dropout_keys_B)


class FeedForward(nn.Module):
  """Dense, exact GELU, dense; four times as wide inside. Gated: value * gelu(gate)."""

  gated: bool = True
  dropout: float = 0.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def _layers(self, channels: int) -> tuple[layers.Dense, layers.Dropout, layers.Dense]:
    parts = 1 + self.gated
    return (
      layers.Dense(4 * channels * parts, parts=parts, dtype=self.dtype, name='net_0_proj'),
      layers.Dropout(self.dropout, layers.PIXELS, name='dropout'),
      layers.Dense(channels, dtype=self.dtype, name='net_2'),
    )

  def weights(self, channels: int) -> tuple[jax.Array, ...]:
    """Kernel and bias of the first product, of values before gates, and of the second."""
    project, _, join = self._layers(channels)
    width = 4 * channels * (1 + self.gated)
    return *project.weights((channels, width)), *join.weights((4 * channels, channels))

  def __call__(self, x_BFSC: jax.Array, dropout_keys_B: jax.Array | None = None) -> jax.Array:
    """(B, F, S, C) -> (B, F, S, C)."""
    project, dropout, join = self._layers(x_BFSC.shape[-1])
    if self.gated:
      value, gate = project(x_BFSC)
      h = value * gelu(gate)
    else:
      h = gelu(project(x_BFSC))
    return join(dropout(h, dropout_keys_B))


@jax.checkpoint  # Keep only x in its own dtype; recompute the float32 values in the backward pass.
def gelu(x: jax.Array) -> jax.Array:
  """Exact GELU in float32; within 3e-5 for bfloat16, a hundredth of what rounding costs at 1.

  XLA:CPU computes erf several times faster than the erfc of jax.nn.gelu; bfloat16 takes what a TPU
  computes faster.
  """
  x_float32 = x.astype(jnp.float32)
  if x.dtype == jnp.bfloat16:
    distribution = pallas_feed_forward.distribution(x_float32)[0]
  else:
    distribution = 0.5 + 0.5 * jax.lax.erf(x_float32 * 0.5**0.5)
  return (x_float32 * distribution).astype(x.dtype)


class TransformerBlock(nn.Module):
  """Two attentions and a feed-forward; each is normed before and added after."""

  attentions: tuple[kernels.Over, kernels.Over]
  num_heads: int
  head_dim: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFSC: jax.Array, context: Context | None = None) -> jax.Array:
    """(B, F, S, C) -> (B, F, S, C)."""
    for i, over in enumerate(self.attentions, start=1):
      h = layers.LayerNorm(self.dtype, name=f'norm{i}')(x_BFSC)
      attention = Attention(over, self.num_heads, self.head_dim, dtype=self.dtype, name=f'attn{i}')
      x_BFSC = x_BFSC + attention(h, context)
    norm = layers.LayerNorm(self.dtype, name='norm3')
    feed_forward = FeedForward(dtype=self.dtype, name='ff')
    if kernels.fuses_feed_forward(x_BFSC.shape, x_BFSC.dtype):
      channels = x_BFSC.shape[-1]
      weights = *norm.weights(channels), *feed_forward.weights(channels)
      with jax.named_scope('ff'):  # As the layers that it stands for, for whoever reads a profile.
        return kernels.add_feed_forward(x_BFSC, *weights)
    return x_BFSC + feed_forward(norm(x_BFSC))


class Transformer(nn.Module):
  """Norm, project in, transform the pixels as tokens, project out, add. Starts as the identity.

  Attention over frames sees all frames of a part of the pixels (video_parts.py).
  """

  attentions: ClassVar[tuple[kernels.Over, kernels.Over]]

  num_heads: int
  head_dim: int
  norm_groups: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array, context: Context | None = None) -> jax.Array:
    """(B, F, H, W, C) -> (B, F, H, W, C)."""
    x_BFHWC = checkpoint_name(x_BFHWC, layers.BLOCK_INPUT)
    height, width, channels = x_BFHWC.shape[2:]
    over_frames = 'frames' in self.attentions
    if over_frames:
      x_BFHWC = video_parts.pixels_apart(x_BFHWC)
    norm = layers.GroupNorm(self.norm_groups, over_frames, 1e-6, self.dtype, name='norm')
    h_BFSC = axes.space_as_tokens(norm(x_BFHWC))
    inner_width = self.num_heads * self.head_dim
    h_BFSC = layers.Dense(inner_width, dtype=self.dtype, name='proj_in')(h_BFSC)
    block = TransformerBlock(
      self.attentions, self.num_heads, self.head_dim, self.dtype, name='transformer_blocks_0'
    )
    h_BFSC = block(h_BFSC, context)
    project = layers.Dense(channels, zero=('kernel', 'bias'), dtype=self.dtype, name='proj_out')
    x_BFHWC = x_BFHWC + axes.tokens_as_space(project(h_BFSC), *x_BFHWC.shape[2:4])
    return video_parts.frames_apart(x_BFHWC, height, width) if over_frames else x_BFHWC


class SpatialTransformer(Transformer):
  """Attention within each frame, then from each frame to the context."""

  attentions = ('pixels', 'context')


class TemporalTransformer(Transformer):
  """Attention over frames at each pixel, twice.

  There is no position encoding: the temporal convolutions and the position marks of the image
  latents tell the order.
  """

  attentions = ('frames', 'frames')


class FrameAdapter(nn.Module):
  """A small transformer layer over frames; no norm before its feed-forward (as in VGen)."""

  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array, dropout_keys_B: jax.Array | None) -> jax.Array:
    """(B, F, H, W, C) -> (B, F, H, W, C)."""
    height, width, channels = x_BFHWC.shape[2:]
    x_BFHWC = video_parts.pixels_apart(x_BFHWC)
    x_BFSC = axes.space_as_tokens(x_BFHWC)
    attention = Attention('frames', 2, channels, self.dropout, self.dtype, name='attn1')
    h = layers.LayerNorm(self.dtype, name='norm1')(x_BFSC)
    x_BFSC = x_BFSC + attention(h, dropout_keys_B=dropout_keys_B)
    feed_forward = FeedForward(False, self.dropout, self.dtype, name='ff')
    x_BFSC = x_BFSC + feed_forward(x_BFSC, dropout_keys_B)
    x_BFHWC = axes.tokens_as_space(x_BFSC, *x_BFHWC.shape[2:4])
    return video_parts.frames_apart(x_BFHWC, height, width)
