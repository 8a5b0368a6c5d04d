"""TransNetV2 (Souček and Lokoč 2020, arXiv 2008.04838): where the shots of a video end.

Cells of convolutions that look 1, 2, 4 and 8 frames away, and two kinds of similarity of each frame
with the 50 before and after it: of what the cells see, and of the colours' histograms. For use
alone: normalisation is by stored statistics, and nothing is dropped out.

Dimension key: B batch, F frames, H W height and width, C channels, K frames compared with.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

DILATIONS = (1, 2, 4, 8)
WINDOW = 101  # Frames that one is compared with: itself, and as many before as after it.
SIMILARITY_DIM = 128
HEIGHT, WIDTH = 27, 48  # Of the frames.
EPSILON = 1e-3


class TransNetV2(nn.Module):
  """Frames to logits of a transition.

  Attributes:
    width: channels of a convolution in the first block; each next one has twice as many.
    num_blocks: of two cells each, with the picture halved after each.
    hidden: units of the layer before the logits.
  """

  width: int = 16
  num_blocks: int = 3
  hidden: int = 1024

  @nn.compact
  def __call__(self, frames_BFHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a transition's one frame, any frame of a transition): float32 logits (B, F) each.

    Args:
      frames_BFHWC: uint8, RGB, of HEIGHT and WIDTH.
    """
    x, seen = frames_BFHWC.astype(jnp.float32) / 255, []
    for i in range(self.num_blocks):
      x = _Block(self.width * 2**i, name=f'blocks_{i}')(x)
      seen.append(x.mean(axis=(2, 3)))
    means_BFC = jnp.concatenate(seen, axis=-1)
    parts = (
      _Similarity(True, name='colors')(_histograms(frames_BFHWC)),
      _Similarity(False, name='features')(means_BFC),
      x.reshape(*x.shape[:2], -1),
    )
    hidden_BFC = nn.relu(nn.Dense(self.hidden, name='hidden_layer')(jnp.concatenate(parts, -1)))
    one_BF, any_BF = (
      nn.Dense(1, name=name)(hidden_BFC)[..., 0] for name in ('one_frame', 'all_frames')
    )
    return one_BF, any_BF


class _Block(nn.Module):
  width: int

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array) -> jax.Array:
    first_BFHWC = nn.relu(_Cell(self.width, name='cells_0')(x_BFHWC))
    x_BFHWC = nn.relu(_Cell(self.width, name='cells_1')(first_BFHWC)) + first_BFHWC
    return nn.avg_pool(x_BFHWC, (1, 2, 2), (1, 2, 2))


class _Cell(nn.Module):
  """Convolutions over the picture and then over time, one for each dilation, normalised."""

  width: int

  @nn.compact
  def __call__(self, x_BFHWC: jax.Array) -> jax.Array:
    parts = []
    for dilation in DILATIONS:
      space = nn.Conv(2 * self.width, (1, 3, 3), use_bias=False, name=f'space_{dilation}')
      time = nn.Conv(
        self.width, (3, 1, 1), kernel_dilation=(dilation, 1, 1), use_bias=False,
        name=f'time_{dilation}',
      )  # fmt: skip
      parts.append(time(space(x_BFHWC)))
    return _StoredNorm(name='norm')(jnp.concatenate(parts, axis=-1))


class _StoredNorm(nn.Module):
  """Batch normalisation by the statistics of training."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    size = x.shape[-1:]
    scale, bias = (
      self.param(name, init, size)
      for name, init in (('scale', nn.initializers.ones), ('bias', nn.initializers.zeros))
    )
    mean = self.param('running_mean', nn.initializers.zeros, size)
    variance = self.param('running_var', nn.initializers.ones, size)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias


class _Similarity(nn.Module):
  """Cosines of each frame's vector with those of the frames around it, through a layer."""

  is_unit: bool  # Whether the vectors are used as they are.

  @nn.compact
  def __call__(self, vectors_BFC: jax.Array) -> jax.Array:
    if not self.is_unit:
      vectors_BFC = _unit(nn.Dense(SIMILARITY_DIM, name='projection')(vectors_BFC))
    cosines_BFF = jnp.einsum('bfc,bgc->bfg', vectors_BFC, vectors_BFC)
    reach, count = WINDOW // 2, vectors_BFC.shape[1]
    padded = jnp.pad(cosines_BFF, ((0, 0), (0, 0), (reach, reach)))
    index_FK = jnp.arange(count)[:, None] + jnp.arange(WINDOW)
    around_BFK = jnp.take_along_axis(padded, index_FK[None], axis=2)
    return nn.relu(nn.Dense(SIMILARITY_DIM, name='fc')(around_BFK))


def _histograms(frames_BFHWC: jax.Array) -> jax.Array:
  """Unit vectors (B, F, 512): of the frames' colours, eight levels of each channel."""
  levels = frames_BFHWC.astype(jnp.int32) >> 5
  bins = (levels[..., 0] << 6) + (levels[..., 1] << 3) + levels[..., 2]
  bins_NP = bins.reshape(-1, bins.shape[-2] * bins.shape[-1])
  counts_NK = jax.vmap(lambda found: jnp.bincount(found, length=512))(bins_NP)
  return _unit(counts_NK.astype(jnp.float32).reshape(*bins.shape[:2], 512))


def _unit(vectors: jax.Array) -> jax.Array:
  length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / jnp.maximum(length, 1e-12)
