"""Layers under the U-Net: dense, convolution, norm, dropout, and the residual blocks made of them.

Initial values are those of torch's layers, which VGen trains from: kernel and bias uniform in
+-1/sqrt(fan_in). Parameters and the statistics of norms are float32; products run in `dtype`.

Dimension key: B batch, F frames, N = B*F, H W height and width, S = H*W, C channels, I O input and
output channels, G channels of a norm group, E embedding width.
"""

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from i2vgen_jax.models import axes, convolution, video_parts

BLOCK_INPUT = 'block_input'  # unet3d.POLICIES may move it to the host.
FRAMES, PIXELS = 1, -2  # The dims of a video that may be split.


def uniform_by_fan_in(fan_in: int) -> nn.initializers.Initializer:
  """Initializer: uniform in +-1/sqrt(fan_in), torch's default for the kernel and the bias alike."""

  def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    bound = 1 / math.sqrt(fan_in)
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


class Affine(nn.Module):
  """What layers with a kernel and a bias share.

  Attributes:
    features: O.
    zero: the parameters that start at zero ('kernel', 'bias').
    dtype: type of the products.
  """

  features: int
  zero: tuple[str, ...] = ()
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def weights(self, shape: tuple[int, ...], use_bias: bool = True) -> tuple[jax.Array, Any]:
    """(kernel, bias): the parameters, the bias None if there is none.

    Args:
      shape: of the kernel, (..., O); fan-in is all of it but O.
      use_bias: whether there is a bias.
    """
    draw = uniform_by_fan_in(math.prod(shape[:-1]))
    initializers = {'kernel': draw, 'bias': draw} | dict.fromkeys(self.zero, nn.initializers.zeros)
    kernel = self.param('kernel', initializers['kernel'], shape)
    return kernel, self.param('bias', initializers['bias'], shape[-1:]) if use_bias else None


class Dense(Affine):
  """x @ kernel + bias.

  With `parts` > 1 the result is a tuple of equal parts of the features, each a matrix product of
  its own: cutting the kernel moves less than cutting the activations.
  """

  use_bias: bool = True
  parts: int = 1

  def __call__(self, x_C: jax.Array) -> Any:
    """(..., I) -> (..., O)."""
    kernel_IO, bias_O = self.weights((x_C.shape[-1], self.features), self.use_bias)
    x_C = x_C.astype(self.dtype)
    if self.parts == 1:
      return _affine(x_C, kernel_IO, bias_O)
    width = self.features // self.parts
    return tuple(
      _affine(x_C, kernel_IO[:, i : i + width], None if bias_O is None else bias_O[i : i + width])
      for i in range(0, self.features, width)
    )


def _affine(x_I: jax.Array, kernel_IO: jax.Array, bias_O: jax.Array | None) -> jax.Array:
  y_O = jnp.dot(x_I, kernel_IO.astype(x_I.dtype))
  return y_O if bias_O is None else y_O + _broadcast_last(bias_O.astype(x_I.dtype), y_O.ndim)


class Conv(Affine):
  """Zero-padded convolution of every frame, kernel_size wide and high (1 or 3)."""

  kernel_size: int = 3
  stride: int = 1

  def __call__(self, x_HWC: jax.Array) -> jax.Array:
    """(..., H, W, I) -> (..., ceil(H/stride), ceil(W/stride), O)."""
    size = self.kernel_size
    kernel_HWIO, bias_O = self.weights((size, size, x_HWC.shape[-1], self.features))
    x_NHWC = x_HWC.reshape(-1, *x_HWC.shape[-3:]).astype(self.dtype)
    y_NHWC = convolution.convolve(x_NHWC, kernel_HWIO.astype(self.dtype), self.stride)
    y_NHWC = y_NHWC + _broadcast_last(bias_O.astype(self.dtype), 4)
    return y_NHWC.reshape(*x_HWC.shape[:-3], *y_NHWC.shape[1:])


class FrameConv(Affine):
  """Convolution over time alone, 3 frames wide, zero-padded; the kernel is a 3-D one, 3 x 1 x 1."""

  def __call__(self, x_BFHWC: jax.Array) -> jax.Array:
    """(B, F, H, W, I) -> (B, F, H, W, O)."""
    kernel, bias_O = self.weights((3, 1, 1, x_BFHWC.shape[-1], self.features))
    # Cast first: what a sharded kernel's reshape gathers is then half as large.
    kernel_3IO = kernel.astype(self.dtype)[:, 0, 0]
    x_BFSC = axes.space_as_tokens(x_BFHWC).astype(self.dtype)
    y_BFSC = convolution.convolve_over_frames(x_BFSC, kernel_3IO)
    y_BFHWC = axes.tokens_as_space(y_BFSC, *x_BFHWC.shape[2:4])
    return y_BFHWC + _broadcast_last(bias_O.astype(self.dtype), 5)


class GroupNorm(nn.Module):
  """Group norm of a video, with statistics per frame or (over_frames) per video.

  Raises:
    ValueError: channels do not divide over num_groups.
  """

  num_groups: int
  over_frames: bool = False
  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array) -> jax.Array:
    """(B, F, H, W, C) -> the same."""
    channels = x_BFHWC.shape[-1]
    if channels % self.num_groups:
      raise ValueError(f'channels={channels} must divide over norm_groups={self.num_groups}.')
    scale_C = self.param('scale', nn.initializers.ones, (channels,))
    bias_C = self.param('bias', nn.initializers.zeros, (channels,))

    dims = (1, 2, 3) if self.over_frames else (2, 3)
    mean = functools.partial(_mean, dims, channels // self.num_groups, self.over_frames)
    return normalize(x_BFHWC, scale_C, bias_C, mean, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
  x_C: jax.Array,
  scale_C: jax.Array,
  bias_C: jax.Array,
  mean_of: Callable[[jax.Array], jax.Array],
  epsilon: float,
) -> jax.Array:
  """Subtracts the mean, divides by the standard deviation, scales and shifts; float32.

  The backward pass is written out: it keeps x in its own dtype, and nothing else of that size, and
  XLA:CPU compiles it in two thirds of the time of the derived one (small U-Net, jax 0.10.2).

  Args:
    x_C: channels last.
    scale_C, bias_C: float32, a value per channel.
    mean_of: the mean over what shares statistics, in a shape that broadcasts with x.
    epsilon: added to the variance.
  """
  return _normalize_forward(x_C, scale_C, bias_C, mean_of, epsilon)[0]


def _normalize_forward(x_C, scale_C, bias_C, mean_of, epsilon):
  x_float32 = x_C.astype(jnp.float32)
  mean = mean_of(x_float32)
  variance = jnp.maximum(mean_of(jnp.square(x_float32)) - jnp.square(mean), 0.0)
  gain = jax.lax.rsqrt(variance + epsilon)
  y_C = (x_float32 - mean) * gain
  y_C = y_C * _broadcast_last(scale_C, x_C.ndim) + _broadcast_last(bias_C, x_C.ndim)
  return y_C, (x_C, scale_C, mean, gain)


def _normalize_backward(mean_of, epsilon, residuals, dy_C):
  x_C, scale_C, mean, gain = residuals
  y_C = (x_C.astype(jnp.float32) - mean) * gain
  others = tuple(range(x_C.ndim - 1))
  dscale_C, dbias_C = jnp.sum(dy_C * y_C, others), jnp.sum(dy_C, others)
  dy_C = dy_C * _broadcast_last(scale_C, x_C.ndim)
  dx_C = (dy_C - mean_of(dy_C) - y_C * mean_of(dy_C * y_C)) * gain
  return dx_C.astype(x_C.dtype), dscale_C, dbias_C


normalize.defvjp(_normalize_forward, _normalize_backward)


def _mean(dims: tuple[int, ...], group_size: int, over_frames: bool, x_C: jax.Array) -> jax.Array:
  """Means over `dims` (pixels, and frames if over_frames), then over the channels of each group.

  In this order x is read once for all statistics.
  """
  mean = jnp.mean(x_C, dims, keepdims=True)
  if over_frames:
    mean = video_parts.mean_of_parts(mean)
  mean_GC = mean.reshape(*mean.shape[:-1], -1, group_size)
  return jnp.broadcast_to(jnp.mean(mean_GC, -1, keepdims=True), mean_GC.shape).reshape(mean.shape)


class LayerNorm(nn.Module):
  """Layer norm over the last dim, epsilon 1e-5, statistics in float32."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def weights(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """(scale, bias), (C,) each."""
    scale_C = self.param('scale', nn.initializers.ones, (channels,))
    return scale_C, self.param('bias', nn.initializers.zeros, (channels,))

  def __call__(self, x_C: jax.Array) -> jax.Array:
    """(..., C) -> the same."""
    scale_C, bias_C = self.weights(x_C.shape[-1])
    mean = functools.partial(jnp.mean, axis=-1, keepdims=True)
    return normalize(x_C, scale_C, bias_C, mean, 1e-5).astype(self.dtype)


class Dropout(nn.Module):
  """Drops elements with a mask drawn from each sample's own key and this module's path alone.

  So the mask is the same on any mesh, and however the batch is cut into micro-batches. Without keys
  or with rate 0 it is the identity. The rate is rounded to a multiple of 1/256: each random word
  decides for four elements, since to draw them is what dropout costs on a TPU.
  """

  rate: float
  split: int = FRAMES  # FRAMES or PIXELS: the dim that video_parts.py may split.

  @nn.compact
  def __call__(self, x: jax.Array, keys_B: jax.Array | None) -> jax.Array:
    """x: (B, F, S, C) or (B, F, H, W, C); keys_B: (B,) jax.random keys, or None."""
    dropped = round(self.rate * 256)
    if keys_B is None or dropped == 0:
      return x
    module = zlib.crc32('/'.join(self.path).encode())
    # The mask is drawn in the shape of x, since a TPU would copy another one: layers over frames
    # have the pixels in one dim. The four bytes of a word lie a quarter of H apart; in layers over
    # frames a quarter of F, or of the pixels if there are fewer than 4 frames.
    shape = list(x.shape)
    shape[self.split] *= video_parts.num_parts()
    dim = 2
    if self.split == PIXELS:
      shape[2:-1] = [math.prod(shape[2:-1])]
      dim = 1 if shape[1] >= 4 else 2
    length, shape[dim] = shape[dim], -(-shape[dim] // 4)

    def draw(key):
      words = jax.random.bits(jax.random.fold_in(key, module), shape[1:])
      # Cast to bytes: where XLA lays pixels in lanes, it copies each of the four.
      bytes_of_words = [(words >> shift).astype(jnp.uint8) for shift in (0, 8, 16, 24)]
      return jnp.concatenate(bytes_of_words, dim - 1)

    drawn = jax.lax.slice_in_dim(jax.vmap(draw)(keys_B), 0, length, axis=dim)
    keep = video_parts.own_part(drawn, self.split).reshape(x.shape) >= dropped
    return jnp.where(keep, x / (1 - dropped / 256), 0).astype(x.dtype)


class ResBlock(nn.Module):
  """Two 3x3 convolutions, the timestep embedding added between, and a skip; then TemporalConv."""

  features: int
  norm_groups: int
  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x_BFHWC: jax.Array, embedding_BE: jax.Array, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    """(B, F, H, W, C) and (B, E) -> (B, F, H, W, features).

    Args:
      x_BFHWC: features of a video.
      embedding_BE: the timestep's vector, with whatever is added to it.
      dropout_keys_B: a jax.random key per sample, or None for no dropout.
    """
    x_BFHWC = checkpoint_name(x_BFHWC, BLOCK_INPUT)
    h = nn.silu(GroupNorm(self.norm_groups, dtype=self.dtype, name='norm1')(x_BFHWC))
    h = Conv(self.features, dtype=self.dtype, name='conv1')(h)
    shift_BC = Dense(self.features, dtype=self.dtype, name='time_emb_proj')(nn.silu(embedding_BE))
    h = h + shift_BC[:, None, None, None]
    h = nn.silu(GroupNorm(self.norm_groups, dtype=self.dtype, name='norm2')(h))
    h = Dropout(self.dropout, name='dropout')(h, dropout_keys_B)
    h = Conv(self.features, zero=('kernel', 'bias'), dtype=self.dtype, name='conv2')(h)
    if x_BFHWC.shape[-1] != self.features:
      x_BFHWC = Conv(self.features, kernel_size=1, dtype=self.dtype, name='conv_shortcut')(x_BFHWC)
    temporal_conv = TemporalConv(self.norm_groups, self.dropout, self.dtype, name='temp_conv')
    return temporal_conv(x_BFHWC + h, dropout_keys_B)


class TemporalConv(nn.Module):
  """Four convolutions over time, added to the input. The last starts at zero: an identity then."""

  norm_groups: int
  dropout: float
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array, dropout_keys_B: jax.Array | None) -> jax.Array:
    """(B, F, H, W, C) -> the same."""
    height, width, channels = x_BFHWC.shape[2:]
    h = x_BFHWC = video_parts.pixels_apart(x_BFHWC)
    for i in range(1, 5):
      # Names follow torch's Sequential: norm 0, (activation, dropout,) convolution 2 or 3.
      norm = GroupNorm(self.norm_groups, over_frames=True, dtype=self.dtype, name=f'conv{i}_0')
      h = nn.silu(norm(h))
      if i > 1:
        h = Dropout(self.dropout, PIXELS, name=f'dropout{i}')(h, dropout_keys_B)
      zero = ('kernel', 'bias') if i == 4 else ()
      conv = FrameConv(channels, zero, self.dtype, name=f'conv{i}_{2 if i == 1 else 3}')
      h = conv(h)
    return video_parts.frames_apart(x_BFHWC + h, height, width)


class Downsample(nn.Module):
  """Halves height and width (rounding up) with a strided 3x3 convolution.

  It first adds `row_margin` rows of zeros above and below, which `Upsample` cuts off again.
  """

  row_margin: int = 0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array) -> jax.Array:
    """(B, F, H, W, C) -> (B, F, ceil(H/2) + row_margin, ceil(W/2), C)."""
    if self.row_margin:
      margins = [(0, 0)] * 5
      margins[2] = (self.row_margin, self.row_margin)
      x_BFHWC = jnp.pad(x_BFHWC, margins)
    return Conv(x_BFHWC.shape[-1], stride=2, dtype=self.dtype, name='conv')(x_BFHWC)


class Upsample(nn.Module):
  """Nearest-neighbour resize, `row_margin` rows off above and below, then a 3x3 convolution."""

  row_margin: int = 0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array, height: int, width: int) -> jax.Array:
    """(B, F, H, W, C) -> (B, F, height, width, C), sizes that `Downsample` makes H and W of.

    Args:
      x_BFHWC: features of the lower level.
      height: height of the result, in pixels of its level.
      width: its width, likewise.
    """
    # For an odd size 2n-1, nearest resize of n pixels is the doubled image without its last row.
    top = self.row_margin
    x_BFHWC = jnp.repeat(jnp.repeat(x_BFHWC, 2, axis=2), 2, axis=3)
    x_BFHWC = x_BFHWC[:, :, top : top + height, :width]
    return Conv(x_BFHWC.shape[-1], dtype=self.dtype, name='conv')(x_BFHWC)


def sinusoid(positions_B: jax.Array, width: int) -> jax.Array:
  """(B,) -> (B, width): cosines, then sines, of frequencies 10000^(-i/(width/2)); width is even."""
  frequencies = jnp.exp(
    -math.log(10_000) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2)
  )
  angles = positions_B.astype(jnp.float32)[:, None] * frequencies[None]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)


def _broadcast_last(x_C: jax.Array, ndim: int) -> jax.Array:
  return x_C.reshape((1,) * (ndim - 1) + x_C.shape)
