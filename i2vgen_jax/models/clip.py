"""CLIP's text and vision towers (Radford et al. 2021), as I2VGen-XL uses them: frozen.

The text tower gives all token states before its last layer, normalised; the vision tower gives the
pooled and projected picture, not L2-normalised. The release runs OpenCLIP ViT-H/14 in both.

Modules and parameters carry the names of transformers' CLIPTextModel and
CLIPVisionModelWithProjection, list entries as `name_i`.

Initial weights serve towers that stay random (the demo's): embeddings at unit scale keep each word
readable at its own position through the residual stream, and text leaves four times as large as
the layer norm makes it: one word among the 84 tokens of a context is then learnt from early.

Dimension key: B batch, L tokens, D width, A heads, K size per head, H W C picture.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

NORM_EPS = 1e-5
# OpenAI CLIP's image statistics, RGB.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

ACTIVATIONS = {
  'gelu': functools.partial(nn.gelu, approximate=False),  # OpenCLIP's.
  'quick_gelu': lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's.
}


def normalize(pixels_BHWC: jax.Array) -> jax.Array:
  """uint8 RGB pictures as CLIPVision takes them: float32, with CLIP's mean and deviation out."""
  return (pixels_BHWC.astype(jnp.float32) / 255 - MEAN) / DEVIATION


class CLIPText(nn.Module):
  """Caption token ids to one vector per token.

  Attributes:
    max_length: positions the tower knows.
    activation: a key of `ACTIVATIONS`.
    dtype: type of the computation. Parameters, norm statistics and the softmax stay float32.
  """

  vocab_size: int = 49408
  hidden_size: int = 1024
  intermediate_size: int = 4096
  num_layers: int = 24
  num_heads: int = 16
  max_length: int = 77
  activation: str = 'gelu'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, token_ids_BL: jax.Array, skip_layers: int = 1) -> jax.Array:
    """Returns float32 token states.

    Args:
      token_ids_BL: integers in [0, vocab_size), L <= max_length. Padding is attended to.
      skip_layers: how many of the last layers to leave out before the final norm: 1 as I2VGen-XL
        was trained (diffusers' `clip_skip=1`), 0 for transformers' `last_hidden_state`.

    Raises:
      ValueError: more tokens than positions.
    """
    length = token_ids_BL.shape[1]
    if length > self.max_length:
      raise ValueError(
        f'{length} tokens do not fit max_length={self.max_length} of the text tower: truncate them.'
      )
    embeddings = TextEmbeddings(
      self.vocab_size, self.hidden_size, self.max_length, name='embeddings'
    )
    encoder = TransformerEncoder(
      intermediate_size=self.intermediate_size,
      num_layers=self.num_layers,
      num_heads=self.num_heads,
      activation=self.activation,
      dtype=self.dtype,
      name='encoder',
    )
    causal_LL = jnp.tril(jnp.ones((length, length), bool))
    states_BLD = encoder(embeddings(token_ids_BL), causal_LL, skip_layers)
    norm = _layer_norm(self.dtype, 'final_layer_norm', nn.initializers.constant(4.0))
    return norm(states_BLD).astype(jnp.float32)


class CLIPVision(nn.Module):
  """Normalised pictures to one vector each, pooled and projected.

  Attributes:
    patch_size: side of a patch in pixels; divides `image_size`.
    activation: a key of `ACTIVATIONS`.
    dtype: type of the computation. Parameters, norm statistics and the softmax stay float32.
  """

  hidden_size: int = 1280
  intermediate_size: int = 5120
  num_layers: int = 32
  num_heads: int = 16
  patch_size: int = 14
  image_size: int = 224
  projection_dim: int = 1024
  activation: str = 'gelu'
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
    """Returns float32 vectors (B, projection_dim).

    Args:
      pixels_BHWC: image_size x image_size, of `normalize`.

    Raises:
      ValueError: pictures of another size.
    """
    if pixels_BHWC.shape[1:3] != (self.image_size, self.image_size):
      raise ValueError(
        f'Pixels of shape {pixels_BHWC.shape} do not fit the vision tower: resize them to '
        f'image_size={self.image_size}.'
      )
    embeddings = VisionEmbeddings(self.hidden_size, self.patch_size, self.dtype, name='embeddings')
    encoder = TransformerEncoder(
      intermediate_size=self.intermediate_size,
      num_layers=self.num_layers,
      num_heads=self.num_heads,
      activation=self.activation,
      dtype=self.dtype,
      name='encoder',
    )
    # 'pre_layrnorm' is misspelt in the release's tensor names.
    states_BLD = _layer_norm(self.dtype, 'pre_layrnorm')(embeddings(pixels_BHWC))
    pooled_BD = _layer_norm(self.dtype, 'post_layernorm')(encoder(states_BLD)[:, 0])
    project = nn.Dense(
      self.projection_dim, use_bias=False, dtype=self.dtype, name='visual_projection'
    )
    return project(pooled_BD).astype(jnp.float32)


class TextEmbeddings(nn.Module):
  """Word vectors plus position vectors."""

  vocab_size: int
  hidden_size: int
  max_length: int

  @nn.compact
  def __call__(self, token_ids_BL: jax.Array) -> jax.Array:
    """(B, L) ids -> (B, L, D)."""
    words = nn.Embed(
      self.vocab_size,
      self.hidden_size,
      embedding_init=nn.initializers.normal(1.0),
      name='token_embedding',
    )
    positions = nn.Embed(
      self.max_length,
      self.hidden_size,
      embedding_init=nn.initializers.normal(0.5),  # Half the words' scale, as in CLIP.
      name='position_embedding',
    )
    return words(token_ids_BL) + positions(jnp.arange(token_ids_BL.shape[1]))[None]


class VisionEmbeddings(nn.Module):
  """A class token and one token per patch, plus position vectors."""

  hidden_size: int
  patch_size: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, pixels_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, 3) -> (B, 1 + patches, D), patches row by row."""
    to_patches = nn.Conv(
      self.hidden_size,
      (self.patch_size, self.patch_size),
      strides=(self.patch_size, self.patch_size),
      padding='VALID',
      use_bias=False,
      dtype=self.dtype,
      name='patch_embedding',
    )
    patches_BHWD = to_patches(pixels_BHWC)
    batch = patches_BHWD.shape[0]
    patches_BLD = patches_BHWD.reshape(batch, -1, self.hidden_size)
    class_D = self.param('class_embedding', nn.initializers.normal(1.0), (self.hidden_size,))
    class_BLD = jnp.broadcast_to(class_D.astype(self.dtype), (batch, 1, self.hidden_size))
    tokens_BLD = jnp.concatenate([class_BLD, patches_BLD], axis=1)
    positions = nn.Embed(
      tokens_BLD.shape[1],
      self.hidden_size,
      embedding_init=nn.initializers.normal(0.5),
      dtype=self.dtype,
      name='position_embedding',
    )
    return tokens_BLD + positions(jnp.arange(tokens_BLD.shape[1]))[None]


class TransformerEncoder(nn.Module):
  """A stack of pre-norm transformer layers."""

  intermediate_size: int
  num_layers: int
  num_heads: int
  activation: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, states_BLD: jax.Array, mask_LL: jax.Array | None = None, skip_layers: int = 0
  ) -> jax.Array:
    """Returns the states before the last `skip_layers` layers.

    Every layer runs, so that `init` makes all parameters and an export is complete; under jit XLA
    drops what is not used.

    Args:
      states_BLD: embedded tokens.
      mask_LL: bool, True where a query (row) may look at a key (column); None lets all see all.
      skip_layers: how many of the last layers to leave out, 0 to num_layers.
    """
    all_states = [states_BLD]
    for i in range(self.num_layers):
      layer = TransformerLayer(
        self.intermediate_size, self.num_heads, self.activation, self.dtype, name=f'layers_{i}'
      )
      all_states.append(layer(all_states[-1], mask_LL))
    return all_states[self.num_layers - skip_layers]


class TransformerLayer(nn.Module):
  """Attention and a two-layer perceptron, each on normalised states and added back."""

  intermediate_size: int
  num_heads: int
  activation: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array, mask_LL: jax.Array | None = None) -> jax.Array:
    """(B, L, D) -> the same."""
    attend = Attention(self.num_heads, self.dtype, name='self_attn')
    perceptron = Perceptron(self.intermediate_size, self.activation, self.dtype, name='mlp')
    states_BLD = states_BLD + attend(_layer_norm(self.dtype, 'layer_norm1')(states_BLD), mask_LL)
    return states_BLD + perceptron(_layer_norm(self.dtype, 'layer_norm2')(states_BLD))


class Attention(nn.Module):
  """Multi-head self-attention; `mask_LL` is True where a query (row) may look."""

  num_heads: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array, mask_LL: jax.Array | None = None) -> jax.Array:
    """(B, L, D) -> the same."""
    batch, length, width = states_BLD.shape
    if width % self.num_heads:
      raise ValueError(f'hidden_size={width} must divide into num_heads={self.num_heads}.')
    head_size = width // self.num_heads

    def project(name: str) -> jax.Array:
      return nn.Dense(width, dtype=self.dtype, name=name)(states_BLD).reshape(
        batch, length, self.num_heads, head_size
      )

    q_BLAK, k_BLAK, v_BLAK = project('q_proj'), project('k_proj'), project('v_proj')
    logits_BALL = jnp.einsum('blak,bmak->balm', q_BLAK, k_BLAK, preferred_element_type=jnp.float32)
    logits_BALL = logits_BALL * head_size**-0.5
    if mask_LL is not None:
      logits_BALL = jnp.where(mask_LL[None, None], logits_BALL, -jnp.inf)
    weights_BALL = jax.nn.softmax(logits_BALL, axis=-1).astype(self.dtype)
    out_BLAK = jnp.einsum('balm,bmak->blak', weights_BALL, v_BLAK)
    out_BLD = out_BLAK.reshape(batch, length, width)
    return nn.Dense(width, dtype=self.dtype, name='out_proj')(out_BLD)


class Perceptron(nn.Module):
  """Widens, activates, narrows."""

  intermediate_size: int
  activation: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array) -> jax.Array:
    """(B, L, D) -> the same."""
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'activation={self.activation!r} is none of {sorted(ACTIVATIONS)}.')
    hidden = nn.Dense(self.intermediate_size, dtype=self.dtype, name='fc1')(states_BLD)
    hidden = ACTIVATIONS[self.activation](hidden)
    return nn.Dense(states_BLD.shape[-1], dtype=self.dtype, name='fc2')(hidden)


def _layer_norm(
  dtype: jnp.dtype, name: str, scale_init: nn.initializers.Initializer = nn.initializers.ones
) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=NORM_EPS, use_fast_variance=False, dtype=dtype, scale_init=scale_init, name=name
  )
