"""Attention without a mask, by whichever code is fastest for the shape on the devices at hand.

  long sequences on TPU   Pallas splash attention: scores never leave the chip's vector memory
  long sequences on GPU   cuDNN's flash attention
  all else                plain XLA

The devices are those of the mesh in context (parallel/mesh.py: within); without one, plain XLA.
Dimension key: B batch, F frames, S queries, T keys, A heads, K head size.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel,
  splash_attention_mask,
)

# Below so many tokens XLA's scores fit beside the rest, and a kernel's setup does not pay: 448
# tokens (level 1 of 448x256) stay with XLA, 920 (level 2 of 1280x720) too.
LONG = 1024
LANES = 128
LARGEST_BLOCK = 1024  # 1280 compiles on v5e, 1920 exceeds its scoped vector memory.
# Mesh axes over which the dims of queries may lie; a dim that its axes do not divide is whole.
AXES = {'B': ('slice', 'data', 'fsdp'), 'A': ('tensor',)}
P = jax.sharding.PartitionSpec


def attend(q_BFSAK, k_BFTAK, v_BFTAK):
  """softmax(q k^T / sqrt(K)) v within each frame: (B, F, S, A, K); softmax is float32."""
  implementation = choose(platform(), q_BFSAK.shape[2], k_BFTAK.shape[2], q_BFSAK.dtype)
  if implementation == 'xla':
    return plain(q_BFSAK, k_BFTAK, v_BFTAK)
  return _on_each_device({'splash': splash, 'cudnn': cudnn}[implementation])(
    q_BFSAK, k_BFTAK, v_BFTAK
  )


def platform():
  """Of the devices of the mesh in context ('tpu', 'gpu', 'cpu'); 'cpu' without one."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device else 'cpu'


def choose(platform, num_queries, num_keys, dtype):
  """'splash', 'cudnn' or 'xla' for the shape on a platform ('tpu', 'gpu', 'cpu')."""
  if num_queries != num_keys or num_queries < LONG:
    return 'xla'
  if platform == 'tpu':
    return 'splash'
  half = dtype in (jnp.bfloat16, jnp.float16)  # All that cuDNN takes.
  return 'cudnn' if platform in ('gpu', 'cuda') and half else 'xla'


def plain(q_BFSAK, k_BFTAK, v_BFTAK):
  """By two matrix products with all scores in memory between them."""
  scale = q_BFSAK.shape[-1] ** -0.5
  logits = jnp.einsum(
    'bfsak,bftak->bfast', q_BFSAK * scale, k_BFTAK, preferred_element_type=jnp.float32
  )
  weights = jax.nn.softmax(logits, -1).astype(v_BFTAK.dtype)
  return jnp.einsum('bfast,bftak->bfsak', weights, v_BFTAK)


def cudnn(q_BFSAK, k_BFTAK, v_BFTAK):
  """By cuDNN's flash attention, each frame a batch entry."""
  folded = (x.reshape(-1, *x.shape[2:]) for x in (q_BFSAK, k_BFTAK, v_BFTAK))
  return jax.nn.dot_product_attention(*folded, implementation='cudnn').reshape(q_BFSAK.shape)


def splash(q_BFSAK, k_BFTAK, v_BFTAK, interpret=False):
  """By JAX's Pallas kernel for TPU; sequences are padded to a multiple of its block.

  The backward pass is the unfused one: fused, it keeps a partial dq for each block of keys, 8 GB
  more at 14,400 tokens.
  """
  num_frames, num_tokens = q_BFSAK.shape[1:3]
  block, padded = tiling(num_tokens)

  def prepare(x_BFSAK):
    x_NASK = jnp.swapaxes(x_BFSAK.reshape(-1, *x_BFSAK.shape[2:]), 1, 2)
    return jnp.pad(x_NASK, ((0, 0), (0, 0), (0, padded - num_tokens), (0, 0)))

  q_NASK = prepare(q_BFSAK * q_BFSAK.shape[-1] ** -0.5)
  kernel = _splash_kernel(q_NASK.shape[1], padded, block, interpret)
  segments = None
  if padded > num_tokens:
    ids = (jnp.arange(padded) >= num_tokens).astype(jnp.int32)  # Padding attends to padding.
    segments = splash_attention_kernel.SegmentIds(ids, ids)
  y_NASK = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))(
    q_NASK, prepare(k_BFTAK), prepare(v_BFTAK)
  )
  y_NSAK = jnp.swapaxes(y_NASK[:, :, :num_tokens], 1, 2)
  return y_NSAK.reshape(-1, num_frames, *y_NSAK.shape[1:])


def tiling(num_tokens):
  """(block, padded length): the block of 512 tokens or more that needs least padding, the largest
  of such."""
  blocks = range(4 * LANES, LARGEST_BLOCK + 1, LANES)
  padded = {block: math.ceil(num_tokens / block) * block for block in blocks}
  block = min(padded, key=lambda block: (padded[block], -block))
  return block, padded[block]


def _splash_kernel(num_heads, num_tokens, block, interpret):
  mask = splash_attention_mask.FullMask((num_tokens, num_tokens))
  sizes = dict.fromkeys(
    ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq'), block
  )
  return splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([mask] * num_heads),
    block_sizes=splash_attention_kernel.BlockSizes(**sizes),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )


def _on_each_device(function):
  """The function on the part of batch, frames and heads that each device holds: XLA cannot split a
  kernel."""

  def mapped(*arrays_BFSAK):
    sizes = jax.sharding.get_abstract_mesh().shape
    dims = dict(zip('BFSAK', arrays_BFSAK[0].shape, strict=True))
    spec = P(*(_fitting(AXES.get(name, ()), size, sizes) for name, size in dims.items()))
    return jax.shard_map(
      function, in_specs=(spec,) * len(arrays_BFSAK), out_specs=spec, check_vma=False
    )(*arrays_BFSAK)

  return mapped


def _fitting(axes, size, sizes):
  """Those of `axes` that the mesh has, or () if together they do not divide `size`."""
  axes = tuple(axis for axis in axes if sizes.get(axis, 1) > 1)
  return axes if size % math.prod(sizes[axis] for axis in axes) == 0 else ()
