"""Layers under the U-Net: dense, convolution, norm, dropout, and the residual blocks made of them.

Initial values are those of torch's layers, which VGen trains from: kernel and bias uniform in +-1/sqrt(fan_in). Parameters
are float32; matrix products run in `dtype`; statistics of norms are float32.

Dimension key: B batch, F frames, H W height and width, C channels, I O input and output channels, G norm groups.
"""

import math
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp

from i2vgen_jax.models import axes


def uniform_by_fan_in(fan_in):
  """Initializer: uniform in +-1/sqrt(fan_in), torch's default for the kernel and the bias alike."""

  def init(key, shape, dtype=jnp.float32):
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def _initializer(name, fan_in, zero):
  return nn.initializers.zeros if name in zero else uniform_by_fan_in(fan_in)


class Dense(nn.Module):
  """x @ kernel + bias over the last dim. `zero` names the parameters that start at zero ('kernel', 'bias')."""

  features: int
  use_bias: bool = True
  zero: tuple[str, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_C):
    fan_in = x_C.shape[-1]
    shape = (fan_in, self.features)
    kernel_IO = self.param('kernel', _initializer('kernel', fan_in, self.zero), shape)
    y_O = jnp.dot(x_C.astype(self.dtype), kernel_IO.astype(self.dtype))
    if not self.use_bias:
      return y_O
    bias_O = self.param('bias', _initializer('bias', fan_in, self.zero), (self.features,))
    return y_O + _broadcast_last(bias_O.astype(self.dtype), y_O.ndim)


class Conv(nn.Module):
  """3x3 (or 1x1) convolution of every frame: (..., H, W, I) -> (..., H/stride, W/stride, O), zero-padded."""

  features: int
  kernel_size: int = 3
  stride: int = 1
  zero: tuple[str, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_HWC):
    size, channels = self.kernel_size, x_HWC.shape[-1]
    fan_in = size * size * channels
    shape = (size, size, channels, self.features)
    kernel_HWIO = self.param('kernel', _initializer('kernel', fan_in, self.zero), shape)
    bias_O = self.param('bias', _initializer('bias', fan_in, self.zero), (self.features,))
    x_NHWC = x_HWC.reshape(-1, *x_HWC.shape[-3:]).astype(self.dtype)
    padding = size // 2
    y_NHWC = jax.lax.conv_general_dilated(
      x_NHWC,
      kernel_HWIO.astype(self.dtype),
      window_strides=(self.stride, self.stride),
      padding=[(padding, padding)] * 2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    y_NHWC = y_NHWC + _broadcast_last(bias_O.astype(self.dtype), 4)
    return y_NHWC.reshape(*x_HWC.shape[:-3], *y_NHWC.shape[1:])


class FrameConv(nn.Module):
  """Convolution over time alone, 3 frames wide and zero-padded: (B, F, H, W, I) -> (B, F, H, W, O).

  Computed as a (3, 1) convolution over (F, H*W). The kernel is kept as (3, 1, 1, I, O), a 3-D convolution's.
  """

  features: int
  zero: tuple[str, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC):
    channels = x_BFHWC.shape[-1]
    fan_in = 3 * channels
    shape = (3, 1, 1, channels, self.features)
    kernel = self.param('kernel', _initializer('kernel', fan_in, self.zero), shape)
    bias_O = self.param('bias', _initializer('bias', fan_in, self.zero), (self.features,))
    y_BFSC = jax.lax.conv_general_dilated(
      axes.space_as_tokens(x_BFHWC).astype(self.dtype),
      kernel[:, 0].astype(self.dtype),
      window_strides=(1, 1),
      padding=[(1, 1), (0, 0)],
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    y_BFSC = y_BFSC + _broadcast_last(bias_O.astype(self.dtype), 4)
    return axes.tokens_as_space(y_BFSC, *x_BFHWC.shape[2:4])


class GroupNorm(nn.Module):
  """Group norm of a video, with statistics per frame or (over_frames) per video.

  Sums over pixels are taken per channel and then combined per group, so the only passes over the video are one that
  reads it and one multiply-add. Statistics are float32.

  Raises:
    ValueError: channels do not divide over num_groups.
  """

  num_groups: int
  over_frames: bool = False
  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC):
    channels = x_BFHWC.shape[-1]
    if channels % self.num_groups:
      raise ValueError(f'channels={channels} must divide over norm_groups={self.num_groups}.')
    scale_C = self.param('scale', nn.initializers.ones, (channels,))
    bias_C = self.param('bias', nn.initializers.zeros, (channels,))

    x_BFHWC = x_BFHWC.astype(jnp.float32)
    pixels = (1, 2, 3) if self.over_frames else (2, 3)
    mean = self._group_mean(jnp.mean(x_BFHWC, pixels, keepdims=True))
    mean_of_squares = self._group_mean(jnp.mean(jnp.square(x_BFHWC), pixels, keepdims=True))
    variance = jnp.maximum(mean_of_squares - jnp.square(mean), 0.0)
    gain = jax.lax.rsqrt(variance + self.epsilon) * _broadcast_last(scale_C, 5)
    offset = _broadcast_last(bias_C, 5) - mean * gain
    return (x_BFHWC * gain + offset).astype(self.dtype)

  def _group_mean(self, x_C):
    """Each channel's value replaced by the mean over its group."""
    x_GC = x_C.reshape(*x_C.shape[:-1], self.num_groups, -1)
    return jnp.broadcast_to(jnp.mean(x_GC, -1, keepdims=True), x_GC.shape).reshape(x_C.shape)


class LayerNorm(nn.Module):
  """Layer norm over the last dim, epsilon 1e-5, statistics in float32."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_C):
    channels = x_C.shape[-1]
    scale_C = self.param('scale', nn.initializers.ones, (channels,))
    bias_C = self.param('bias', nn.initializers.zeros, (channels,))
    x_C = x_C.astype(jnp.float32)
    centred_C = x_C - jnp.mean(x_C, -1, keepdims=True)
    gain = jax.lax.rsqrt(jnp.mean(jnp.square(centred_C), -1, keepdims=True) + 1e-5)
    y_C = centred_C * gain * _broadcast_last(scale_C, x_C.ndim) + _broadcast_last(bias_C, x_C.ndim)
    return y_C.astype(self.dtype)


class Dropout(nn.Module):
  """Drops elements with a mask that depends on each sample's own key and on this module's path, and on nothing else.

  So the mask is the same on any mesh, and however the batch is cut into micro-batches. No keys, or rate 0: the identity.
  """

  rate: float

  @nn.compact
  def __call__(self, x, keys_B):
    """x: (B, ...) or (B*F, ...); keys_B: (B,) jax.random keys, or None."""
    if keys_B is None or self.rate == 0:
      return x
    module = zlib.crc32('/'.join(self.path).encode())
    num_elements = axes.elements_per_sample(x.shape, keys_B.shape[0])

    def draw(key):
      return jax.random.bernoulli(jax.random.fold_in(key, module), 1 - self.rate, (num_elements,))

    keep = jax.vmap(draw)(keys_B).reshape(x.shape)
    return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class ResBlock(nn.Module):
  """Two 3x3 convolutions with the timestep embedding added between them, then a TemporalConv. Identity skip at start."""

  features: int
  norm_groups: int
  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, embedding_BE, dropout_keys_B):
    norm = lambda name: GroupNorm(self.norm_groups, dtype=self.dtype, name=name)
    h = nn.silu(norm('norm1')(x_BFHWC))
    h = Conv(self.features, dtype=self.dtype, name='conv1')(h)
    shift_BC = Dense(self.features, dtype=self.dtype, name='time_emb_proj')(nn.silu(embedding_BE))
    h = h + shift_BC[:, None, None, None]
    h = Dropout(self.dropout, name='dropout')(nn.silu(norm('norm2')(h)), dropout_keys_B)
    h = Conv(self.features, zero=('kernel', 'bias'), dtype=self.dtype, name='conv2')(h)
    if x_BFHWC.shape[-1] != self.features:
      x_BFHWC = Conv(self.features, kernel_size=1, dtype=self.dtype, name='conv_shortcut')(x_BFHWC)
    temporal_conv = TemporalConv(self.norm_groups, self.dropout, self.dtype, name='temp_conv')
    return temporal_conv(x_BFHWC + h, dropout_keys_B)


class TemporalConv(nn.Module):
  """Four convolutions over time, added to the input; the last starts at zero, so the block starts as the identity."""

  norm_groups: int
  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, dropout_keys_B):
    channels = x_BFHWC.shape[-1]
    h = x_BFHWC
    for i in range(1, 5):
      # Names follow torch's Sequential: norm 0, (activation, dropout,) convolution 2 or 3.
      norm = GroupNorm(self.norm_groups, over_frames=True, dtype=self.dtype, name=f'conv{i}_0')
      h = nn.silu(norm(h))
      if i > 1:
        h = Dropout(self.dropout, name=f'dropout{i}')(h, dropout_keys_B)
      zero = ('kernel', 'bias') if i == 4 else ()
      conv = FrameConv(channels, zero, self.dtype, name=f'conv{i}_{2 if i == 1 else 3}')
      h = conv(h)
    return x_BFHWC + h


class Downsample(nn.Module):
  """Halves height and width (rounding up) with a strided 3x3 convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC):
    return Conv(x_BFHWC.shape[-1], stride=2, dtype=self.dtype, name='conv')(x_BFHWC)


class Upsample(nn.Module):
  """Nearest-neighbour resize to (height, width), at most twice the input's, then a 3x3 convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC, height, width):
    # For an odd size 2n-1, nearest resize of n pixels is the doubled image without its last row.
    x_BFHWC = jnp.repeat(jnp.repeat(x_BFHWC, 2, axis=2), 2, axis=3)[:, :, :height, :width]
    return Conv(x_BFHWC.shape[-1], dtype=self.dtype, name='conv')(x_BFHWC)


def sinusoid(positions_B, width):
  """(B,) -> (B, width) float32: cosines, then sines, of frequencies 10000^(-i/(width/2)). `width` is even."""
  frequencies = jnp.exp(
    -math.log(10_000) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
  )
  angles = positions_B.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _broadcast_last(x_C, ndim):
  return x_C.reshape((1,) * (ndim - 1) + x_C.shape)
