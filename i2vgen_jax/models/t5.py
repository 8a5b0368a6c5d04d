"""T5's encoder (Raffel et al. 2020), frozen: a caption's tokens to one vector each, as Imagen reads
captions.

Differences from CLIP's text tower (models/clip.py): every token attends to every token but padding;
position enters through a learned bias on the attention logits; the logits are not scaled; norms
take out no mean; no layer has a bias. Version 1.1 gates its feed-forward, the first version does
not.

pretrained/t5_names.py has the names that transformers' T5EncoderModel gives to the parameters.

Precision: products of matrices take `dtype` and give float32; the residual stream, norms, gates and
the softmax are float32. Trained streams reach thousands, and what layers add more than float16
holds: for float16 transformers keeps `wo` in float32 and clamps. bfloat16 has float32's range, so
that nothing needs a clamp, but steps of 16 in the thousands: a stream in it loses what tells tokens
apart (tests/i2vgen_jax/models/test_t5.py).

Initial weights are T5's own (Mesh TensorFlow's).

Dimension key: B batch, L (as keys: M) tokens, D width, A heads, K size per head.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

PAD_ID = 0  # Every T5 vocabulary has it.

# T5's own names, as `feed_forward_proj` of a config.json has them.
ACTIVATIONS = {
  'relu': nn.relu,  # The first version's.
  'gated-gelu': functools.partial(nn.gelu, approximate=True),  # Version 1.1's, and mT5's.
}


class T5Encoder(nn.Module):
  """Caption token ids to one vector per token. The defaults are those of T5 v1.1 XXL.

  Attributes:
    vocab_size: rows of the embedding; the releases pad 32,100 tokens to 32,128 rows.
    head_dim: size per head; num_heads * head_dim need not equal hidden_size.
    max_length: tokens that captions are padded or cut to. No weight depends on it.
    relative_position_buckets: even; half of them are for keys to the right of a query.
    max_distance: tokens beyond which all distances share a bucket.
    activation: a key of `ACTIVATIONS`; 'gated-...' has two matrices in place of one.
    dtype: type that the products of matrices take. All else is float32, as the parameters are.
  """

  vocab_size: int = 32128
  hidden_size: int = 4096
  intermediate_size: int = 10240
  head_dim: int = 64
  num_layers: int = 24
  num_heads: int = 64
  max_length: int = 128
  relative_position_buckets: int = 32
  max_distance: int = 128
  activation: str = 'gated-gelu'
  epsilon: float = 1e-6
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, token_ids_BL: jax.Array, mask_BL: jax.Array | None = None) -> jax.Array:
    """Returns float32 token states (B, L, D), after the final norm.

    States at padded positions are computed as all others are, from the padding's embedding and the
    caption's tokens: finite, not zero, and equal to transformers'. No other state depends on them.

    Args:
      token_ids_BL: integers in [0, vocab_size), L <= max_length.
      mask_BL: True where a token may be attended to; by default wherever the id is not `PAD_ID`. A
        caption with no such token attends evenly to all its positions.

    Raises:
      ValueError: more tokens than max_length, or an unknown activation.
    """
    length = token_ids_BL.shape[1]
    if length > self.max_length:
      raise ValueError(
        f'{length} tokens do not fit max_length={self.max_length} of the T5 encoder: truncate them.'
      )
    if mask_BL is None:
      mask_BL = token_ids_BL != PAD_ID
    embed = nn.Embed(
      self.vocab_size,
      self.hidden_size,
      embedding_init=nn.initializers.normal(1.0),
      name='token_embedding',
    )
    position_bias = nn.Embed(
      self.relative_position_buckets,
      self.num_heads,
      embedding_init=nn.initializers.normal(self.hidden_size**-0.5),
      name='position_bias',
    )
    buckets_LM = position_buckets(length, self.relative_position_buckets, self.max_distance)
    bias_ALM = position_bias(buckets_LM).transpose(2, 0, 1)
    # The lowest float32, not -inf: a row without any key then softens to the mean, not to NaN.
    lowest = jnp.finfo(jnp.float32).min
    bias_BALM = jnp.where(mask_BL[:, None, None], bias_ALM, lowest)

    states_BLD = embed(token_ids_BL)
    for i in range(self.num_layers):
      block = Block(
        intermediate_size=self.intermediate_size,
        head_dim=self.head_dim,
        num_heads=self.num_heads,
        activation=self.activation,
        epsilon=self.epsilon,
        dtype=self.dtype,
        name=f'block_{i}',
      )
      states_BLD = block(states_BLD, bias_BALM)
    return _rms_norm(self.epsilon, 'final_norm')(states_BLD)


class Block(nn.Module):
  """Attention and a feed-forward, each on normalised states and added back in float32."""

  intermediate_size: int
  head_dim: int
  num_heads: int
  activation: str
  epsilon: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array, bias_BALM: jax.Array) -> jax.Array:
    """(B, L, D) -> the same."""
    attend = Attention(self.num_heads, self.head_dim, self.dtype, name='attention')
    feed_forward = FeedForward(
      self.intermediate_size, self.activation, self.dtype, name='feed_forward'
    )
    attention_norm = _rms_norm(self.epsilon, 'attention_norm')
    feed_forward_norm = _rms_norm(self.epsilon, 'feed_forward_norm')
    states_BLD = states_BLD + attend(attention_norm(states_BLD), bias_BALM)
    return states_BLD + feed_forward(feed_forward_norm(states_BLD))


class Attention(nn.Module):
  """Multi-head self-attention without scaling: T5 has it in the initial weights of the queries."""

  num_heads: int
  head_dim: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array, bias_BALM: jax.Array) -> jax.Array:
    """(B, L, D) -> the same; the bias holds positions, and the lowest float32 for padding."""
    batch, length, width = states_BLD.shape
    inner = self.num_heads * self.head_dim

    def project(name: str, fan_in: int) -> jax.Array:
      x_BLI = _dense(inner, fan_in, self.dtype, name)(states_BLD).astype(self.dtype)
      return x_BLI.reshape(batch, length, self.num_heads, self.head_dim)

    q_BLAK = project('q', width * self.head_dim)
    k_BMAK, v_BMAK = project('k', width), project('v', width)
    logits_BALM = jnp.einsum('blak,bmak->balm', q_BLAK, k_BMAK, preferred_element_type=jnp.float32)
    weights_BALM = jax.nn.softmax(logits_BALM + bias_BALM, axis=-1).astype(self.dtype)
    out_BLAK = jnp.einsum('balm,bmak->blak', weights_BALM, v_BMAK)
    return _dense(width, inner, self.dtype, 'o')(out_BLAK.reshape(batch, length, inner))


class FeedForward(nn.Module):
  """Widens, activates or gates, narrows."""

  intermediate_size: int
  activation: str
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, states_BLD: jax.Array) -> jax.Array:
    """(B, L, D) -> the same."""
    if self.activation not in ACTIVATIONS:
      raise ValueError(f'activation={self.activation!r} is none of {sorted(ACTIVATIONS)}.')
    width = states_BLD.shape[-1]
    activate = ACTIVATIONS[self.activation]

    def widen(name: str) -> jax.Array:
      return _dense(self.intermediate_size, width, self.dtype, name)(states_BLD)

    if self.activation.startswith('gated-'):
      hidden = activate(widen('wi_0')) * widen('wi_1')
    else:
      hidden = activate(widen('wi'))
    return _dense(width, self.intermediate_size, self.dtype, 'wo')(hidden)


def position_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
  """Bucket of each key's distance from each query: int32 (L, M) in [0, num_buckets).

  Raffel et al. 2020, Sec. 2.1. The lower half of the buckets is for keys at the query or left of
  it, the upper half for keys right of it. In each, the first half of the buckets holds one distance
  each, the rest grow by the logarithm up to max_distance, and the last takes all beyond.

  Args:
    length: tokens.
    num_buckets: a multiple of 4.
    max_distance: tokens, above num_buckets / 4.

  Raises:
    ValueError: buckets that do not divide so.
  """
  half = num_buckets // 2
  exact = half // 2
  if num_buckets % 4 or not 0 < exact < max_distance:
    raise ValueError(
      f'relative_position_buckets={num_buckets} must be a multiple of 4 above 0, and max_distance='
      f'{max_distance} more than a quarter of it.'
    )
  positions = np.arange(length)
  offset_LM = positions[None] - positions[:, None]
  distance_LM = np.abs(offset_LM)
  # The releases were trained in float32, which decides on which side of a bound a distance falls.
  log_LM = np.log(np.maximum(distance_LM, exact).astype(np.float32) / exact)
  far_LM = exact + (log_LM / math.log(max_distance / exact) * (half - exact)).astype(np.int32)
  bucket_LM = np.where(distance_LM < exact, distance_LM, np.minimum(far_LM, half - 1))
  return (bucket_LM + half * (offset_LM > 0)).astype(np.int32)


def _dense(features: int, fan_in: int, dtype: jnp.dtype, name: str) -> nn.Dense:
  """A matrix without bias, drawn at deviation fan_in**-0.5: takes `dtype`, gives float32."""
  return nn.Dense(
    features,
    use_bias=False,
    dtype=dtype,
    kernel_init=nn.initializers.normal(fan_in**-0.5),
    dot_general=functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32),
    name=name,
  )


def _rms_norm(epsilon: float, name: str) -> nn.RMSNorm:
  return nn.RMSNorm(epsilon, dtype=jnp.float32, name=name)
