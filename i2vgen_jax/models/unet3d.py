"""The video U-Net of I2VGen-XL (Zhang et al. 2023, arXiv:2311.04145): 2-D, with temporal layers.

Each level repeats (ResBlock with TemporalConv, SpatialTransformer, TemporalTransformer). Every
temporal layer starts as the identity, so that an image model can be the start. Parameter paths
follow the names of diffusers' I2VGenXLUNet.

Dimension key: B batch, F frames, H W latent height and width, C channels, L context tokens,
D context width, E embedding width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from i2vgen_jax.models import (
  attention,
  free_u,
  layers,
  pallas_attention,
  pallas_feed_forward,
  video_parts,
)

Target = TypeVar('Target', bound=type[nn.Module])
GROWTH = 'growth'  # Entry of `conditioning`: the share of conditioners that grow in.


class Level(nn.Module):
  """What the down, mid and up blocks share: sizes, and the layer they repeat."""

  channels: int
  has_attention: bool
  head_dim: int
  norm_groups: int
  dropout: float
  row_margin: int
  remat: str
  dtype: jnp.dtype

  def _resnet(
    self, i: int, x_BFHWC: jax.Array, embedding_BE: jax.Array, dropout_keys_B: jax.Array | None
  ) -> jax.Array:
    block = rematerialized(layers.ResBlock, self.remat)(
      self.channels, self.norm_groups, self.dropout, self.dtype, name=f'resnets_{i}'
    )
    return block(x_BFHWC, embedding_BE, dropout_keys_B)

  def _attend(self, i: int, x_BFHWC: jax.Array, context: attention.Context) -> jax.Array:
    sizes = (self.channels // self.head_dim, self.head_dim, self.norm_groups, self.dtype)
    spatial = rematerialized(attention.SpatialTransformer, self.remat)(
      *sizes, name=f'attentions_{i}'
    )
    temporal = rematerialized(attention.TemporalTransformer, self.remat)(
      *sizes, name=f'temp_attentions_{i}'
    )
    return temporal(spatial(x_BFHWC, context))

  def _layer(
    self,
    i: int,
    x_BFHWC: jax.Array,
    embedding_BE: jax.Array,
    context: attention.Context,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    x_BFHWC = self._resnet(i, x_BFHWC, embedding_BE, dropout_keys_B)
    return self._attend(i, x_BFHWC, context) if self.has_attention else x_BFHWC


class DownBlock(Level):
  """Layers of one encoder level, then (but for the last level) halving."""

  num_layers: int = 2
  is_last: bool = False

  @nn.compact
  def __call__(
    self,
    x_BFHWC: jax.Array,
    embedding_BE: jax.Array,
    context: attention.Context,
    dropout_keys_B: jax.Array | None,
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns the output and the list of skips.

    Args:
      x_BFHWC: features of the level.
      embedding_BE: the timestep's vector, with whatever is added to it.
      context: context tokens (B, L, D), or some that grow.
      dropout_keys_B: a jax.random key per sample, or None for no dropout.
    """
    skips = []
    for i in range(self.num_layers):
      x_BFHWC = self._layer(i, x_BFHWC, embedding_BE, context, dropout_keys_B)
      skips.append(x_BFHWC)
    if not self.is_last:
      x_BFHWC = layers.Downsample(self.row_margin, self.dtype, name='downsamplers_0')(x_BFHWC)
      skips.append(x_BFHWC)
    return x_BFHWC, skips


class MidBlock(Level):
  """A layer with attention and one more ResBlock, at the lowest resolution."""

  @nn.compact
  def __call__(
    self,
    x_BFHWC: jax.Array,
    embedding_BE: jax.Array,
    context: attention.Context,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    """(B, F, H, W, C) -> the same; arguments as those of DownBlock."""
    x_BFHWC = self._layer(0, x_BFHWC, embedding_BE, context, dropout_keys_B)
    return self._resnet(1, x_BFHWC, embedding_BE, dropout_keys_B)


class UpBlock(Level):
  """Layers of one decoder level, each fed a skip, then (but for the last level) a resize."""

  free_u: tuple[tuple[float, float], ...] = ()  # Gains of the block's first layers.

  @nn.compact
  def __call__(
    self,
    x_BFHWC: jax.Array,
    skips: Sequence[jax.Array],
    next_size: tuple[int, ...] | None,
    embedding_BE: jax.Array,
    context: attention.Context,
    dropout_keys_B: jax.Array | None,
  ) -> jax.Array:
    """(B, F, H, W, C) -> the same, or of `next_size`, which is the next skip's (height, width).

    Args:
      x_BFHWC: features of the level.
      skips: (B, F, H, W, any) of the encoder, in the order of the layers that take them.
      next_size: (height, width) of the next level; None at the last.
      embedding_BE, context, dropout_keys_B: as those of DownBlock.
    """
    for i, skip_BFHWC in enumerate(skips):
      if i < len(self.free_u):
        x_BFHWC, skip_BFHWC = free_u.reweigh(x_BFHWC, skip_BFHWC, *self.free_u[i])
      x_BFHWC = jnp.concatenate([x_BFHWC, skip_BFHWC], -1)
      x_BFHWC = self._layer(i, x_BFHWC, embedding_BE, context, dropout_keys_B)
    if next_size is not None:
      resize = layers.Upsample(self.row_margin, self.dtype, name='upsamplers_0')
      x_BFHWC = resize(x_BFHWC, *next_size)
    return x_BFHWC


class UNet3D(nn.Module):
  """Predicts (noise, velocity or sample) from noisy latents, timestep and conditioning.

  Attributes:
    conditioners: lines of conditions.read, whose modules are made here; tokens in this order.
    out_channels: channels of the prediction.
    block_channels: channels of each level, from full resolution down; each halves the one before.
    attention_levels: whether each level has transformers; the mid block always has.
    layers_per_block: layers of an encoder level; a decoder level has one more.
    head_dim: size per attention head; a level has channels / head_dim heads.
    temporal_in_heads: heads of the first temporal transformer; its inner width is that x head_dim.
    norm_groups: groups of every group norm.
    dropout: rate in ResBlock and TemporalConv; half of it in the image latents' adapter.
    context_dim: width of context tokens.
    row_margin: rows of zeros above and below a level before it is halved, off again after it is
      doubled: 1 in VGen's refinement, 0 in its base model.
    growing: kinds of conditioners that conditioning['growth'], (B,), lets in by degrees; without
      that entry they take part in full.
    free_u: (trunk gain, skip gain) of the first decoder layers, see free_u.reweigh; VGen's
      refinement has ((1.1, 0.6), (1.2, 0.4)).
    remat: what the backward pass of a ResBlock or transformer keeps: a name in POLICIES; 'none'
      keeps all.
    dtype: type of matrix products and activations.
  """

  conditioners: tuple[Any, ...]
  out_channels: int = 4
  block_channels: tuple[int, ...] = (320, 640, 1280, 1280)
  attention_levels: tuple[bool, ...] = (True, True, True, False)
  layers_per_block: int = 2
  head_dim: int = 64
  temporal_in_heads: int = 8
  norm_groups: int = 32
  dropout: float = 0.1
  context_dim: int = 1024
  row_margin: int = 0
  growing: tuple[str, ...] = ()
  free_u: tuple[tuple[float, float], ...] = ()
  remat: Literal['none', 'block', 'products', 'offload'] = 'none'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    noisy_latents_BFHWC: jax.Array,
    timesteps_B: jax.Array,
    conditioning: Mapping[str, jax.Array],
    dropout_keys_B: jax.Array | None = None,
  ) -> jax.Array:
    """Returns the prediction, float32, shaped as the latents with `out_channels`.

    Args:
      noisy_latents_BFHWC: any F >= 1, H and W.
      timesteps_B: int or float, 0..T-1.
      conditioning: what the conditioners' signals encode, (B, ...) by name.
      dropout_keys_B: a jax.random key per sample, or None for no dropout.

    Raises:
      ValueError: a conditioner, size or rate is inconsistent, or `conditioning` lacks a signal.
    """
    self._check_sizes()
    x, embedding_BE, context = self._embed(
      noisy_latents_BFHWC, timesteps_B, conditioning, dropout_keys_B
    )
    conditions = (embedding_BE, context, dropout_keys_B)

    x = layers.Conv(self.block_channels[0], dtype=self.dtype, name='conv_in')(x)
    x = rematerialized(attention.TemporalTransformer, self.remat)(
      self.temporal_in_heads, self.head_dim, self.norm_groups, self.dtype, name='transformer_in'
    )(x)

    skips = [x]
    num_levels = len(self.block_channels)
    for i in range(num_levels):
      block = DownBlock(
        **self._level(i),
        num_layers=self.layers_per_block,
        is_last=i == num_levels - 1,
        name=f'down_blocks_{i}',
      )
      x, new_skips = block(x, *conditions)
      skips += new_skips

    lowest: dict[str, Any] = self._level(-1) | dict(has_attention=True)
    x = MidBlock(**lowest, name='mid_block')(x, *conditions)

    for i in range(num_levels):
      block_skips = [skips.pop() for _ in range(self.layers_per_block + 1)]
      next_size = skips[-1].shape[2:4] if skips else None
      gains = self.free_u[i * len(block_skips) : (i + 1) * len(block_skips)]
      block = UpBlock(**self._level(-1 - i), free_u=gains, name=f'up_blocks_{i}')
      x = block(x, block_skips, next_size, *conditions)

    x = nn.silu(layers.GroupNorm(self.norm_groups, dtype=self.dtype, name='conv_norm_out')(x))
    x = layers.Conv(self.out_channels, zero=('kernel',), dtype=self.dtype, name='conv_out')(x)
    return x.astype(jnp.float32)

  def _embed(
    self,
    noisy_latents_BFHWC: jax.Array,
    timesteps_B: jax.Array,
    conditions: Mapping[str, jax.Array],
    dropout_keys_B: jax.Array | None,
  ) -> tuple[jax.Array, jax.Array, attention.Context]:
    """Runs the conditioners. Returns the concatenated input, the embedding and the context."""
    num_frames = noisy_latents_BFHWC.shape[1] * video_parts.num_parts()
    latent_channels = noisy_latents_BFHWC.shape[-1]
    embedding_width = 4 * self.block_channels[0]
    widths = dict(
      context=self.context_dim,
      concat=latent_channels,
      noise=latent_channels,
      embedding=embedding_width,
    )
    routes: dict[str, list[Any]] = dict(
      context=[],
      concat=[],
      noise=[noisy_latents_BFHWC],
      embedding=[TimeEmbedding(embedding_width, name='time_embedding')(timesteps_B)],
    )
    share_B, before = conditions.get(GROWTH) if self.growing else None, []
    for line in self.conditioners:
      names = [signal.name for signal in line.conditioner.signals]
      missing = [name for name in names if name not in conditions]
      if missing:
        raise ValueError(
          f'Conditioner {line.kind!r} needs conditioning {missing}; given: {sorted(conditions)}.'
        )
      route = line.conditioner.route
      conditioner = line.make(
        route_width=widths[route],
        embedding_width=embedding_width,
        dropout=self.dropout / 2,
        dtype=self.dtype,
      )
      output = conditioner(*(conditions[name] for name in names), num_frames, dropout_keys_B)
      if share_B is not None and line.kind in self.growing and route in ('noise', 'embedding'):
        output *= share_B.reshape((-1,) + (1,) * (output.ndim - 1))
      routes[route].append(output)
      if route == 'context' and line.kind not in self.growing:
        before.append(output)

    channels: list[Any] = [sum(routes['noise']), *routes['concat']]
    x_BFHWC = jnp.concatenate([x.astype(self.dtype) for x in channels], -1)
    context: Any = self._join(routes['context'])
    if share_B is not None and len(before) < len(routes['context']):
      context = attention.GrowingContext(self._join(before), context, share_B)
    embedding_BE: Any = sum(routes['embedding'])
    return x_BFHWC, embedding_BE, context

  def _join(self, tokens: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([x_BLD.astype(self.dtype) for x_BLD in tokens], 1)

  def _level(self, i: int) -> dict[str, Any]:
    return dict(
      channels=self.block_channels[i],
      has_attention=self.attention_levels[i],
      head_dim=self.head_dim,
      norm_groups=self.norm_groups,
      dropout=self.dropout,
      row_margin=self.row_margin,
      remat=self.remat,
      dtype=self.dtype,
    )

  def _check_sizes(self) -> None:
    if len(self.block_channels) != len(self.attention_levels):
      raise ValueError(
        f'block_channels={self.block_channels} and attention_levels={self.attention_levels} '
        'must be of one length: a level each.'
      )
    # The mid block has attention at the last level's width, whether or not that level has.
    attention_levels = (*self.attention_levels[:-1], True)
    for channels, has_attention in zip(self.block_channels, attention_levels, strict=True):
      for name, divisor in (('norm_groups', self.norm_groups), ('head_dim', self.head_dim)):
        if channels % divisor and (has_attention or name == 'norm_groups'):
          raise ValueError(
            f'block_channels={self.block_channels}: {channels} must divide over {name}={divisor}.'
          )
    if not 0 <= self.dropout <= 255 / 256:  # layers.Dropout has steps of 1/256.
      raise ValueError(f'dropout={self.dropout}: give a rate from 0 to {255 / 256:.3f}.')


class TimeEmbedding(nn.Module):
  """Sinusoid and two dense layers, float32 throughout."""

  width: int

  @nn.compact
  def __call__(self, timesteps_B: jax.Array) -> jax.Array:
    """(B,) -> (B, E)."""
    h = layers.sinusoid(timesteps_B, self.width // 4)
    h = nn.silu(layers.Dense(self.width, name='linear_1')(h))
    return layers.Dense(self.width, name='linear_2')(h)


# What the backward pass keeps of a block's forward pass; it recomputes all else.
POLICIES = {
  'block': jax.checkpoint_policies.nothing_saveable,  # Keep the block's input only.
  # Keep the results of products, convolutions and attention too.
  'products': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable,
    jax.checkpoint_policies.save_only_these_names(
      pallas_attention.RESULT, pallas_feed_forward.RESULT
    ),
  ),
  # Keep the block's input only, in the memory of the host.
  'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=(),
    names_which_can_be_offloaded=(layers.BLOCK_INPUT,),
    offload_src='device',
    offload_dst='pinned_host',
  ),
}


def rematerialized(cls: Target, remat: str) -> Target:
  """The module class, but its backward pass recomputes what POLICIES[remat] does not keep."""
  if remat == 'none':
    return cls
  if remat not in POLICIES:
    raise ValueError(f"remat={remat!r} is not known; known: 'none', {str([*POLICIES])[1:-1]}.")
  return nn.remat(cls, policy=POLICIES[remat])
