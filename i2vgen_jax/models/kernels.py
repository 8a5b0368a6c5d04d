"""Attention without a mask, and the feed-forward after it, by whichever code is fastest for the
shape on the devices at hand.

  on TPU                  pallas_attention.py and pallas_frame_attention.py; for sequences too long
                          for them, splash attention
  long sequences on GPU   cuDNN's flash attention
  all else                plain XLA

The devices are those of the mesh in context (parallel/mesh.py: within); without one, plain XLA.
Dimension key: B batch, F (as keys: G) frames, S queries, T keys, L context tokens, A heads, K head
size, C = A*K.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel,
  splash_attention_mask,
)
from jax.typing import DTypeLike

from i2vgen_jax.models import (
  axes,
  pallas_attention,
  pallas_feed_forward,
  pallas_frame_attention,
  video_parts,
)

Over = Literal['pixels', 'frames', 'context']
# What a query attends to: the pixels of its frame, the frames of its pixel, or the context of its
# video, whose keys and values are made once and not once per frame. The dims of keys and values,
# and the einsums of queries and keys to logits, and of weights and values to the output.
OVER: dict[Over, tuple[str, str, str]] = {
  'pixels': ('BFTC', 'bfsak,bftak->bfast', 'bfast,bftak->bfsak'),
  'frames': ('BGSC', 'bfsak,bgsak->bsafg', 'bsafg,bgsak->bfsak'),
  'context': ('BLC', 'bfsak,blak->bafsl', 'bafsl,blak->bfsak'),
}
# Below so many tokens a kernel's setup does not pay on a TPU (28 pixels of level 3 of 448x256), and
# on a GPU, where XLA's scores fit beside the rest.
FEWEST = {'tpu': 64, 'gpu': 1024}
LANES = 128
LARGEST_BLOCK = 1024  # 1280 compiles on v5e, 1920 exceeds its scoped vector memory.


def attend(over: Over, q_BFSC: jax.Array, k: jax.Array, v: jax.Array, num_heads: int) -> jax.Array:
  """softmax(q k^T / sqrt(K)) v, head by head: (B, F, S, C); softmax is float32.

  Args:
    over: what queries attend to, a key of OVER.
    q_BFSC: queries.
    k, v: keys and values, with the dims of OVER.
    num_heads: A, heads in the channels.
  """
  num_keys, head_dim = k.shape[2 if over == 'pixels' else 1], q_BFSC.shape[-1] // num_heads
  chosen = choose(platform(), over, num_keys, head_dim, q_BFSC.dtype)
  if chosen == 'xla':
    return plain(over, q_BFSC, k, v, num_heads)
  function = {'pallas': pallas, 'splash': splash, 'cudnn': cudnn}[chosen]
  function = functools.partial(function, over, head_dim=head_dim)
  dims = OVER[over][0]
  return video_parts.on_each_device(function, ('BFSC', dims, dims), num_heads)(q_BFSC, k, v)


def fuses_feed_forward(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
  """Whether add_feed_forward is the fastest for a video of this shape (B, F, S, C).

  Args:
    shape: of the whole video.
    dtype: of the products.
  """
  num_pixels, channels = shape[2:]
  is_whole = jax.sharding.get_abstract_mesh().shape.get(video_parts.HEADS, 1) == 1
  fits = pallas_feed_forward.fits(num_pixels, channels, dtype)
  return platform() == 'tpu' and is_whole and fits


def add_feed_forward(x_BFSC: jax.Array, *weights: jax.Array) -> jax.Array:
  """x + feed_forward(norm(x)): (B, F, S, C).

  Args:
    x_BFSC: features of videos.
    *weights: of pallas_feed_forward.Weights.
  """
  whole = ('I', 'I', 'IO', 'O', 'OI', 'I')  # Letters that no mesh axis splits.
  weights = tuple(x.astype(x_BFSC.dtype) if x.ndim == 2 else x for x in weights)
  return video_parts.on_each_device(pallas_feed_forward.apply, ('BFSI', *whole), 1)(
    x_BFSC, *weights
  )


def platform() -> str:
  """Kind of the devices in the current mesh: 'tpu', 'gpu' or 'cpu'; 'cpu' without a mesh."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else 'cpu'


def choose(platform: str, over: Over, num_keys: int, head_dim: int, dtype: DTypeLike) -> str:
  """'pallas', 'splash', 'cudnn' or 'xla' for a shape on a platform.

  Args:
    platform: kind of the devices: 'tpu', 'gpu' or 'cpu'.
    over: what queries attend to, a key of OVER.
    num_keys: how many keys a query attends to.
    head_dim: K, channels of a head.
    dtype: type of queries, keys and values.
  """
  if platform == 'tpu':
    if over == 'frames':
      fits = 1 < num_keys <= pallas_frame_attention.MOST_FRAMES
    else:
      fits = FEWEST['tpu'] <= num_keys <= pallas_attention.most_keys(dtype)
    if fits and pallas_attention.fits_heads(head_dim):
      return 'pallas'
    return 'splash' if over == 'pixels' and num_keys >= FEWEST['tpu'] else 'xla'
  half = dtype in (jnp.bfloat16, jnp.float16)  # cuDNN takes no others.
  if platform in ('gpu', 'cuda') and over == 'pixels' and num_keys >= FEWEST['gpu'] and half:
    return 'cudnn'
  return 'xla'


def plain(over: Over, q_BFSC: jax.Array, k: jax.Array, v: jax.Array, num_heads: int) -> jax.Array:
  """Attends by two matrix products, with all scores in memory between them.

  Args:
    over: what queries attend to, a key of OVER.
    q_BFSC: queries.
    k, v: keys and values, with the dims of OVER.
    num_heads: A, heads in the channels.
  """
  _, to_logits, to_output = OVER[over]
  q_BFSAK, k, v = (axes.split_heads(x, num_heads) for x in (q_BFSC, k, v))
  q_BFSAK = q_BFSAK * q_BFSAK.shape[-1] ** -0.5
  logits = jnp.einsum(to_logits, q_BFSAK, k, preferred_element_type=jnp.float32)
  weights = jax.nn.softmax(logits, -1).astype(v.dtype)
  return jnp.einsum(to_output, weights, v).reshape(q_BFSC.shape)


def pallas(
  over: Over, q_BFSC: jax.Array, k: jax.Array, v: jax.Array, head_dim: int, interpret: bool = False
) -> jax.Array:
  """Attends by pallas_attention or pallas_frame_attention.

  Args:
    over: what queries attend to, a key of OVER.
    q_BFSC: queries.
    k, v: keys and values, with the dims of OVER.
    head_dim: K, channels of a head.
    interpret: whether to run without a TPU.
  """
  if over == 'frames':
    return pallas_frame_attention.attend_over_frames(q_BFSC, k, v, head_dim, interpret)
  rows = math.prod(q_BFSC.shape[: 2 if over == 'pixels' else 1])
  q, k, v = (x.reshape(rows, -1, x.shape[-1]) for x in (q_BFSC, k, v))
  return pallas_attention.attend(q, k, v, head_dim, interpret).reshape(q_BFSC.shape)


def cudnn(_: Over, *qkv_BFSC: jax.Array, head_dim: int) -> jax.Array:
  """Attends by cuDNN's flash attention, each frame a batch entry.

  Args:
    _: always 'pixels'.
    qkv_BFSC: queries, keys and values, bfloat16 or float16.
    head_dim: K, channels of a head.
  """
  folded = (x.reshape(-1, x.shape[2], x.shape[3] // head_dim, head_dim) for x in qkv_BFSC)
  y_NSAK = jax.nn.dot_product_attention(*folded, implementation='cudnn')
  return y_NSAK.reshape(qkv_BFSC[0].shape)


def splash(
  _: Over,
  q_BFSC: jax.Array,
  k_BFTC: jax.Array,
  v_BFTC: jax.Array,
  head_dim: int,
  interpret: bool = False,
) -> jax.Array:
  """Attends by JAX's Pallas kernel for TPU; sequences are padded to a multiple of its block.

  The backward pass is the unfused one: fused, it keeps a partial dq for each block of keys, 8 GB
  more at 14,400 tokens.

  Args:
    _: always 'pixels'.
    q_BFSC: queries.
    k_BFTC: keys, as many as queries.
    v_BFTC: values.
    head_dim: K, channels of a head.
    interpret: whether to run without a TPU.
  """
  num_tokens = q_BFSC.shape[2]
  block, padded = tiling(num_tokens)

  def prepare(x_BFSC):
    x_NSAK = x_BFSC.reshape(-1, num_tokens, x_BFSC.shape[-1] // head_dim, head_dim)
    return jnp.pad(jnp.swapaxes(x_NSAK, 1, 2), ((0, 0), (0, 0), (0, padded - num_tokens), (0, 0)))

  q_NASK = prepare(q_BFSC * head_dim**-0.5)
  kernel = _splash_kernel(q_NASK.shape[1], padded, block, interpret)
  segments = None
  if padded > num_tokens:
    ids = (jnp.arange(padded) >= num_tokens).astype(jnp.int32)  # Padding attends to padding.
    segments = splash_attention_kernel.SegmentIds(ids, ids)
  y_NASK: Any = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))(
    q_NASK, prepare(k_BFTC), prepare(v_BFTC)
  )
  return jnp.swapaxes(y_NASK[:, :, :num_tokens], 1, 2).reshape(q_BFSC.shape)


def tiling(num_tokens: int) -> tuple[int, int]:
  """(block, padded length): the block of 512 tokens or more that needs least padding, the largest
  of such."""
  blocks = range(4 * LANES, LARGEST_BLOCK + 1, LANES)
  padded = {block: math.ceil(num_tokens / block) * block for block in blocks}
  block = min(padded, key=lambda block: (padded[block], -block))
  return block, padded[block]


def _splash_kernel(
  num_heads: int, num_tokens: int, block: int, interpret: bool
) -> splash_attention_kernel.SplashAttentionKernel:
  mask = splash_attention_mask.FullMask((num_tokens, num_tokens))
  sizes: Any = dict.fromkeys(
    ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq'), block
  )
  return splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([mask] * num_heads),
    block_sizes=splash_attention_kernel.BlockSizes(**sizes),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
