"""Trainable conditioners: each turns fields of `conditioning` into one route of the U-Net.

The routes: 'context' (tokens for cross-attention, concatenated in the config's order), 'concat'
(channels beside the noisy latents), 'noise' (added to the noisy latents), 'embedding' (added to the
timestep embedding). A new one is a class here, a row in CONDITIONERS and a line in a config:
dict(kind=..., attribute of the class=...). Without its line, a conditioner's parameters do not
exist. docs/conditioning.md maps the paper's encoders to them.

Dimension key: B batch, F frames, H W latent height and width, C channels, L tokens,
D context width, E embedding width, V width of the CLIP image vector.
"""

from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.models import attention, layers, video_parts


class Conditioner(nn.Module):
  """Turns `fields` of the batch, in their order, into one `route`; a subclass sets both.

  Attributes:
    route_width: channels the route takes: D of the context, C of the latents or E.
    embedding_width: E.
    dropout: rate within the conditioner.
  """

  fields: ClassVar[tuple[str, ...]]
  route: ClassVar[Literal['context', 'concat', 'noise', 'embedding']]

  route_width: int
  embedding_width: int
  dropout: float
  dtype: jnp.dtype


class Text(Conditioner):
  """Caption tokens, (B, L, D), as they are."""

  fields = ('text',)
  route = 'context'

  @nn.compact
  def __call__(self, text_BLD, num_frames, dropout_keys_B):
    """(B, L, D) -> (B, L, D)."""
    return text_BLD


class ImageTokens(Conditioner):
  """CLIP vector of the image, (B, V), to `num_tokens` context tokens."""

  fields = ('image_embedding',)
  route = 'context'
  num_tokens: int = 4

  @nn.compact
  def __call__(self, image_embedding_BV, num_frames, dropout_keys_B):
    """(B, V) -> (B, num_tokens, D)."""
    h = layers.Dense(self.embedding_width, dtype=self.dtype, name='linear_0')(image_embedding_BV)
    width = self.num_tokens * self.route_width
    tokens = layers.Dense(width, dtype=self.dtype, name='linear_2')(nn.silu(h))
    return tokens.reshape(-1, self.num_tokens, self.route_width)


class ImageLatentTokens(Conditioner):
  """Image latents, (B, H, W, C), of any size, to (pool_size / 4)^2 context tokens, row-major."""

  fields = ('image_latents',)
  route = 'context'
  pool_size: int = 32

  @nn.compact
  def __call__(self, image_latents_BHWC, num_frames, dropout_keys_B):
    """(B, H, W, C) -> (B, L, D)."""
    channels = image_latents_BHWC.shape[-1]
    h = layers.Conv(8 * channels, dtype=self.dtype, name='conv_0')(image_latents_BHWC)
    h = adaptive_average_pool(nn.silu(h), self.pool_size)
    h = layers.Conv(16 * channels, stride=2, dtype=self.dtype, name='conv_3')(h)
    h = layers.Conv(self.route_width, stride=2, dtype=self.dtype, name='conv_5')(nn.silu(h))
    return h.reshape(h.shape[0], -1, self.route_width)


class GlobalImageTokens(Conditioner):
  """The paper's semantics of the image: its CLIP vector plus a learned one, to context tokens.

  The learned vector (the paper's G.Enc) is the mean of `ImageLatentTokens`, as wide as CLIP's.
  """

  fields = ('image_embedding', 'image_latents')
  route = 'context'
  num_tokens: int = 4
  pool_size: int = 32

  @nn.compact
  def __call__(self, image_embedding_BV, image_latents_BHWC, num_frames, dropout_keys_B):
    """(B, V) and (B, H, W, C) -> (B, num_tokens, D)."""
    shared = dict(embedding_width=self.embedding_width, dropout=self.dropout, dtype=self.dtype)
    global_encoder = ImageLatentTokens(
      pool_size=self.pool_size,
      route_width=image_embedding_BV.shape[-1],
      name='global_encoder',
      **shared,
    )
    to_tokens = ImageTokens(
      num_tokens=self.num_tokens, route_width=self.route_width, name='tokens', **shared
    )
    global_BLV = global_encoder(image_latents_BHWC, num_frames, dropout_keys_B)
    semantics_BV = image_embedding_BV + global_BLV.mean(1)
    return to_tokens(semantics_BV, num_frames, dropout_keys_B)


class ImageLatents(Conditioner):
  """Image latents, (B, H, W, C), as frame 0 of a sequence whose other frames mark positions."""

  fields = ('image_latents',)
  route = 'concat'

  @nn.compact
  def __call__(self, image_latents_BHWC, num_frames, dropout_keys_B):
    """(B, H, W, C) -> (B, F, H, W, C)."""
    channels = image_latents_BHWC.shape[-1]
    h = video_parts.own_part(mark_positions(image_latents_BHWC, num_frames), 1)
    h = nn.silu(layers.Conv(4 * channels, dtype=self.dtype, name='proj_in_0')(h))
    h = nn.silu(layers.Conv(4 * channels, dtype=self.dtype, name='proj_in_2')(h))
    h = layers.Conv(self.route_width, dtype=self.dtype, name='proj_in_4')(h)
    adapter = attention.FrameAdapter(self.dropout, self.dtype, name='temporal_encoder')
    return adapter(h, dropout_keys_B)


class FirstFrameLatents(Conditioner):
  """The paper's details of the image: latents, (B, H, W, C), added to the noise of frame 0."""

  fields = ('image_latents',)
  route = 'noise'

  @nn.compact
  def __call__(self, image_latents_BHWC, num_frames, dropout_keys_B):
    """(B, H, W, C) -> (B, F, H, W, C), zero after frame 0."""
    frames = jnp.pad(image_latents_BHWC[:, None], [(0, 0), (0, num_frames - 1)] + [(0, 0)] * 3)
    return video_parts.own_part(frames, 1)


class Fps(Conditioner):
  """Frames per second, (B,), embedded in float32 as the timestep is. Starts at zero."""

  fields = ('fps',)
  route = 'embedding'

  @nn.compact
  def __call__(self, fps_B, num_frames, dropout_keys_B):
    """(B,) -> (B, E)."""
    h = layers.sinusoid(fps_B, self.embedding_width // 4)
    h = nn.silu(layers.Dense(self.embedding_width, name='linear_0')(h))
    return layers.Dense(self.embedding_width, zero=('kernel', 'bias'), name='linear_2')(h)


CONDITIONERS = {
  'text': Text,
  'image_latent_tokens': ImageLatentTokens,
  'image_tokens': ImageTokens,
  'global_image_tokens': GlobalImageTokens,
  'image_latents': ImageLatents,
  'first_frame_latents': FirstFrameLatents,
  'fps': Fps,
}


def conditioner_class(kind):
  """The class of a config line's `kind`. Raises ValueError for an unknown one."""
  if kind not in CONDITIONERS:
    raise ValueError(f'Unknown conditioner kind={kind!r}; known: {", ".join(CONDITIONERS)}.')
  return CONDITIONERS[kind]


def mark_positions(image_latents_BHWC, num_frames):
  """(B, H, W, C) -> (B, F, H, W, C): the image, then constant frames k/(F-1) for k = 1..F-1."""
  positions_F = jnp.arange(1, num_frames) / max(num_frames - 1, 1)
  batch_size, *shape = image_latents_BHWC.shape
  marks = jnp.broadcast_to(
    positions_F[None, :, None, None, None], (batch_size, num_frames - 1, *shape)
  )
  return jnp.concatenate([image_latents_BHWC[:, None], marks.astype(image_latents_BHWC.dtype)], 1)


def adaptive_average_pool(x_BHWC, size):
  """(B, H, W, C) -> (B, size, size, C): torch's AdaptiveAvgPool2d, also for H or W below `size`."""
  height, width = x_BHWC.shape[1:3]
  return jnp.einsum(
    'uh,vw,bhwc->buvc',
    _pooling_matrix(height, size),
    _pooling_matrix(width, size),
    x_BHWC.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  ).astype(x_BHWC.dtype)


def _pooling_matrix(num_inputs, num_bins):
  """(num_bins, num_inputs): bin i averages [floor(i n / bins), ceil((i + 1) n / bins))."""
  matrix = np.zeros((num_bins, num_inputs), np.float32)
  for i in range(num_bins):
    start = i * num_inputs // num_bins
    stop = -(-(i + 1) * num_inputs // num_bins)
    matrix[i, start:stop] = 1 / (stop - start)
  return matrix
