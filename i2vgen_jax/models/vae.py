"""AutoencoderKL: Stable Diffusion's image autoencoder (Rombach et al. 2022, Sec. 3.1).

It takes each frame by itself. An encoder of residual blocks halves the picture between levels
(factor 8 with four levels), one attention block looks at all of it, and the result is the mean and
log-variance of a Gaussian per latent. I2VGen-XL keeps Stable Diffusion 2.1's frozen. Latents are in
the VAE's own units here; whoever calls multiplies by the config's `scaling_factor`.

Modules and parameters carry diffusers' names, list entries as `name_i`.

Dimension key: N images, H W height and width, C channels, S = H*W tokens.
"""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

NORM_EPS = 1e-6  # Stable Diffusion's VAE norms; its UNet uses 1e-5.
# Bounds on the posterior's log-variance, as in latent-diffusion's DiagonalGaussianDistribution.
MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0


class AutoencoderKL(nn.Module):
  """Encodes images to Gaussian latents and decodes latents to images.

  Attributes:
    block_channels: width of each level; the latents are 2**(levels - 1) times smaller.
    layers_per_block: residual blocks of an encoder level; a decoder level has one more.
    dtype: type of the computation. Parameters, norm statistics and the softmax stay float32.
  """

  in_channels: int = 3
  latent_channels: int = 4
  block_channels: Sequence[int] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_groups: int = 32
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    """Names encoder, decoder and the two 1x1 convolutions between them."""
    levels = dict(
      block_channels=self.block_channels,
      layers_per_block=self.layers_per_block,
      norm_groups=self.norm_groups,
      dtype=self.dtype,
    )
    moments = 2 * self.latent_channels
    self.encoder = Encoder(out_channels=moments, **levels)
    self.quant_conv = nn.Conv(moments, (1, 1), dtype=self.dtype)
    self.post_quant_conv = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype)
    self.decoder = Decoder(out_channels=self.in_channels, **levels)

  def __call__(self, images_NHWC: jax.Array) -> jax.Array:
    """Reconstructs images from their posterior mean; touches every parameter, so `init` uses it."""
    mean_NHWC, _ = self.encode(images_NHWC)
    return self.decode(mean_NHWC)

  def encode(self, images_NHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior's mean and log-variance, float32, of images in [-1, 1].

    Raises:
      ValueError: height or width is not a multiple of the downsampling factor.
    """
    factor = 2 ** (len(self.block_channels) - 1)
    height, width = images_NHWC.shape[1:3]
    if height % factor or width % factor:
      raise ValueError(
        f'Images of {height}x{width} pixels do not divide by {factor}, the downsampling factor of '
        f'an AutoencoderKL of {len(self.block_channels)} levels: crop or resize them.'
      )
    moments_NHWC = self.quant_conv(self.encoder(images_NHWC)).astype(jnp.float32)
    mean_NHWC, logvar_NHWC = jnp.split(moments_NHWC, 2, axis=-1)
    return mean_NHWC, jnp.clip(logvar_NHWC, MIN_LOGVAR, MAX_LOGVAR)

  def decode(self, latents_NHWC: jax.Array) -> jax.Array:
    """Returns float32 images, about in [-1, 1], of latents in the VAE's own units."""
    return self.decoder(self.post_quant_conv(latents_NHWC)).astype(jnp.float32)


class Coder(nn.Module):
  """What encoder and decoder share: their sizes."""

  out_channels: int
  block_channels: Sequence[int]
  layers_per_block: int
  norm_groups: int
  dtype: jnp.dtype


class Encoder(Coder):
  """Images to twice the latent channels: mean and log-variance before `quant_conv`."""

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) images -> (N, H/f, W/f, out_channels)."""
    x_NHWC = _conv3x3(self.block_channels[0], self.dtype, 'conv_in')(x_NHWC)
    for i, channels in enumerate(self.block_channels):
      x_NHWC = Level(
        channels=channels,
        num_layers=self.layers_per_block,
        resampling='down' if i < len(self.block_channels) - 1 else '',
        norm_groups=self.norm_groups,
        dtype=self.dtype,
        name=f'down_blocks_{i}',
      )(x_NHWC)
    x_NHWC = MidBlock(self.norm_groups, self.dtype, name='mid_block')(x_NHWC)
    x_NHWC = nn.silu(_group_norm(self.norm_groups, self.dtype, 'conv_norm_out')(x_NHWC))
    return _conv3x3(self.out_channels, self.dtype, 'conv_out')(x_NHWC)


class Decoder(Coder):
  """Latents after `post_quant_conv` to images."""

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, h, w, C) latents -> (N, f h, f w, out_channels)."""
    x_NHWC = _conv3x3(self.block_channels[-1], self.dtype, 'conv_in')(x_NHWC)
    x_NHWC = MidBlock(self.norm_groups, self.dtype, name='mid_block')(x_NHWC)
    for i, channels in enumerate(reversed(self.block_channels)):
      x_NHWC = Level(
        channels=channels,
        num_layers=self.layers_per_block + 1,
        resampling='up' if i < len(self.block_channels) - 1 else '',
        norm_groups=self.norm_groups,
        dtype=self.dtype,
        name=f'up_blocks_{i}',
      )(x_NHWC)
    x_NHWC = nn.silu(_group_norm(self.norm_groups, self.dtype, 'conv_norm_out')(x_NHWC))
    return _conv3x3(self.out_channels, self.dtype, 'conv_out')(x_NHWC)


class Level(nn.Module):
  """One level: residual blocks, then, but for the last level, a layer that resamples."""

  channels: int
  num_layers: int
  resampling: Literal['down', 'up', '']
  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H', W', channels), half or twice as high and wide, or as it was."""
    for i in range(self.num_layers):
      block = ResnetBlock(self.channels, self.norm_groups, self.dtype, name=f'resnets_{i}')
      x_NHWC = block(x_NHWC)
    if self.resampling:
      layer = {'down': Downsample, 'up': Upsample}[self.resampling]
      x_NHWC = layer(self.channels, self.dtype, name=f'{self.resampling}samplers_0')(x_NHWC)
    return x_NHWC


class MidBlock(nn.Module):
  """Residual block, attention over the whole picture, residual block."""

  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> the same."""
    channels = x_NHWC.shape[-1]
    x_NHWC = ResnetBlock(channels, self.norm_groups, self.dtype, name='resnets_0')(x_NHWC)
    x_NHWC = SpatialAttention(self.norm_groups, self.dtype, name='attentions_0')(x_NHWC)
    return ResnetBlock(channels, self.norm_groups, self.dtype, name='resnets_1')(x_NHWC)


class ResnetBlock(nn.Module):
  """Norm, SiLU, convolution, twice; plus the input, through a 1x1 convolution if widths differ."""

  channels: int
  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H, W, channels)."""
    h_NHWC = nn.silu(_group_norm(self.norm_groups, self.dtype, 'norm1')(x_NHWC))
    h_NHWC = _conv3x3(self.channels, self.dtype, 'conv1')(h_NHWC)
    h_NHWC = nn.silu(_group_norm(self.norm_groups, self.dtype, 'norm2')(h_NHWC))
    h_NHWC = _conv3x3(self.channels, self.dtype, 'conv2')(h_NHWC)
    if x_NHWC.shape[-1] != self.channels:
      x_NHWC = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name='conv_shortcut')(x_NHWC)
    return x_NHWC + h_NHWC


class SpatialAttention(nn.Module):
  """Self-attention of one head, as wide as the features, over all H*W positions."""

  norm_groups: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> the same."""
    channels = x_NHWC.shape[-1]
    h_NHWC = _group_norm(self.norm_groups, self.dtype, 'group_norm')(x_NHWC)
    tokens_NSC = h_NHWC.reshape(h_NHWC.shape[0], -1, channels)
    q_NSC = nn.Dense(channels, dtype=self.dtype, name='to_q')(tokens_NSC)
    k_NSC = nn.Dense(channels, dtype=self.dtype, name='to_k')(tokens_NSC)
    v_NSC = nn.Dense(channels, dtype=self.dtype, name='to_v')(tokens_NSC)
    logits_NSS = jnp.einsum('nsc,ntc->nst', q_NSC, k_NSC, preferred_element_type=jnp.float32)
    weights_NSS = jax.nn.softmax(logits_NSS * channels**-0.5, axis=-1).astype(self.dtype)
    out_NSC = jnp.einsum('nst,ntc->nsc', weights_NSS, v_NSC)
    out_NSC = nn.Dense(channels, dtype=self.dtype, name='to_out_0')(out_NSC)
    return x_NHWC + out_NSC.reshape(x_NHWC.shape)


class Downsample(nn.Module):
  """Stride-2 convolution that pads below and to the right only, as Stable Diffusion's VAE does."""

  channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, H/2, W/2, channels)."""
    conv = nn.Conv(
      self.channels,
      (3, 3),
      strides=(2, 2),
      padding=((0, 1), (0, 1)),
      dtype=self.dtype,
      name='conv',
    )
    return conv(x_NHWC)


class Upsample(nn.Module):
  """Doubles height and width by repetition, then convolves."""

  channels: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x_NHWC: jax.Array) -> jax.Array:
    """(N, H, W, C) -> (N, 2H, 2W, channels)."""
    x_NHWC = jnp.repeat(jnp.repeat(x_NHWC, 2, axis=1), 2, axis=2)
    return _conv3x3(self.channels, self.dtype, 'conv')(x_NHWC)


def _conv3x3(channels: int, dtype: jnp.dtype, name: str) -> nn.Conv:
  return nn.Conv(channels, (3, 3), padding=1, dtype=dtype, name=name)


def _group_norm(num_groups: int, dtype: jnp.dtype, name: str) -> nn.GroupNorm:
  # Statistics are float32 whatever `dtype` is (Flax's default); the two-pass variance loses nothing
  # where the mean is large beside the deviation.
  return nn.GroupNorm(num_groups, epsilon=NORM_EPS, use_fast_variance=False, dtype=dtype, name=name)
