"""Attention as Pallas kernels for TPU that read and write activations as they lie in memory.

Heads of size 64 lie beside each other, two in the 128 lanes of a tile. XLA's products and JAX's
kernels want each head in a tile of its own, half of it empty, and so every query, key, value and
gradient is copied there and back. Here the products of a head are made with the lanes of the other
set to zero, which costs a multiplier of 128 nothing, and nothing moves.

  attend              keys and values of a row fit in vector memory, so that softmax sees them whole
  attend_over_frames  a frame attends to few others, but at every pixel

Products take the inputs' type and sum in float32; softmax is float32. `interpret` runs a kernel
without a TPU. Measured, as far as it can be without one, in docs/performance.md.

Dimension key: B batch, T queries, U keys, F frames, S pixels, C = heads x head_dim channels;
within a kernel L lanes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
MOST_KEYS = 4096
SCORES = 2**19  # Of a block of queries to all keys, 2 MiB.
VECTOR_MEMORY = 32 * 2**20  # XLA's 16 MiB fall 1 MiB short of 3,600 keys on v5e, which has 128.
PIXELS = 8  # Of a sequence in attention over frames: the rows of a float32 tile.
MOST_FRAMES = 64
MASKED = -1e30


def fits_heads(head_dim):
  """Whether heads of this size fill the lanes."""
  return head_dim in (LANES // 2, LANES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend(q_BTC, k_BUC, v_BUC, head_dim, interpret=False):
  """softmax(q k^T / sqrt(head_dim)) v, head by head: (B, T, C); U is at most MOST_KEYS."""
  return _attend(_forward_kernel, (q_BTC,), (k_BUC, v_BUC), head_dim, interpret)[0]


def _attend_forward(q_BTC, k_BUC, v_BUC, head_dim, interpret):
  return attend(q_BTC, k_BUC, v_BUC, head_dim, interpret), (q_BTC, k_BUC, v_BUC)


def _attend_backward(head_dim, interpret, qkv, dy_BTC):
  q_BTC, *kv = qkv
  return tuple(_attend(_backward_kernel, (q_BTC, dy_BTC), kv, head_dim, interpret))


attend.defvjp(_attend_forward, _attend_backward)


def _attend(kernel, queries, keys, head_dim, interpret):
  """Runs a kernel over blocks of queries, innermost, with all keys of the same 128 lanes."""
  (batch_size, num_queries, channels), num_keys = queries[0].shape, keys[0].shape[1]
  most = min(512, max(LANES, SCORES // num_keys // LANES * LANES))
  block = min(most, pl.cdiv(num_queries, 16) * 16)
  grid = (batch_size, pl.cdiv(channels, LANES), pl.cdiv(num_queries, block))
  of_queries = pl.BlockSpec((1, block, LANES), lambda b, a, t: (b, t, a))
  of_keys = pl.BlockSpec((1, num_keys, LANES), lambda b, a, t: (b, 0, a))
  backward = kernel is _backward_kernel
  results = (queries[0], *keys) if backward else queries
  return pl.pallas_call(
    functools.partial(kernel, sizes=(num_queries, channels), head_dim=head_dim),
    grid=grid,
    in_specs=[of_queries] * len(queries) + [of_keys] * 2,
    out_specs=[of_queries] + [of_keys] * 2 * backward,
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    scratch_shapes=[pltpu.VMEM((num_keys, LANES), jnp.float32)] * 2 * backward,
    cost_estimate=_cost(
      (*queries, *keys, *results),
      num_scores=batch_size * channels // head_dim * num_queries * num_keys,
      products=5 if backward else 2,
      head_dim=head_dim,
    ),
    compiler_params=pltpu.CompilerParams(vmem_limit_bytes=VECTOR_MEMORY),
    interpret=interpret,
    name='attention_' + ('backward' if backward else 'forward'),
  )(*queries, *keys)


def _forward_kernel(q_ref, k_ref, v_ref, y_ref, sizes, head_dim):
  q, k, v = _read((q_ref, k_ref, v_ref), sizes)
  y_ref[0] = _forward(q, k, v, head_dim).astype(y_ref.dtype)


def _backward_kernel(
  q_ref, dy_ref, k_ref, v_ref, dq_ref, dk_ref, dv_ref, dk_sum, dv_sum, sizes, head_dim
):
  block = pl.program_id(2)

  @pl.when(block == 0)
  def _():
    dk_sum[...] = jnp.zeros_like(dk_sum)
    dv_sum[...] = jnp.zeros_like(dv_sum)

  q, dy, k, v = _read((q_ref, dy_ref, k_ref, v_ref), sizes)
  dq, dk, dv = _backward(q, k, v, dy, head_dim)
  dq_ref[0] = dq.astype(dq_ref.dtype)
  dk_sum[...] += dk
  dv_sum[...] += dv

  @pl.when(block == pl.num_programs(2) - 1)
  def _():
    dk_ref[0] = dk_sum[...].astype(dk_ref.dtype)
    dv_ref[0] = dv_sum[...].astype(dv_ref.dtype)


def _read(refs, sizes):
  """The blocks with zeros for what lies beyond the array: queries after the last, lanes of a head
  that is not there. A block may hold anything there, and 0 x NaN is NaN."""
  num_queries, channels = sizes
  block = refs[0].shape[1]
  for ref in refs:
    x = ref[0]
    row, lane = (jax.lax.broadcasted_iota(jnp.int32, x.shape, dim) for dim in (0, 1))
    inside = pl.program_id(1) * LANES + lane < channels
    if ref.shape == refs[0].shape:
      inside &= pl.program_id(2) * block + row < num_queries
    yield jnp.where(inside, x, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend_over_frames(q_BFSC, k_BFSC, v_BFSC, head_dim, interpret=False):
  """softmax(q k^T / sqrt(head_dim)) v over the frames of each pixel, head by head: (B, F, S, C).

  Eight pixels of all frames are one sequence, as they lie in memory, in which a token sees those of
  its own pixel alone: seven eighths of the scores are masked, which costs less than a layout in
  which none is. At most MOST_FRAMES frames.
  """
  return _over_frames(_forward, (q_BFSC, k_BFSC, v_BFSC), head_dim, interpret)[0]


def _over_frames_forward(q_BFSC, k_BFSC, v_BFSC, head_dim, interpret):
  y_BFSC = attend_over_frames(q_BFSC, k_BFSC, v_BFSC, head_dim, interpret)
  return y_BFSC, (q_BFSC, k_BFSC, v_BFSC)


def _over_frames_backward(head_dim, interpret, qkv, dy_BFSC):
  return tuple(_over_frames(_backward, (*qkv, dy_BFSC), head_dim, interpret))


attend_over_frames.defvjp(_over_frames_forward, _over_frames_backward)


def _over_frames(function, arrays_BFSC, head_dim, interpret):
  """Runs a function on all sequences, in blocks of all frames, some pixels and 128 lanes."""
  x = arrays_BFSC[0]
  batch_size, num_frames, num_pixels, channels = x.shape
  # Half a MiB of each array in bfloat16, and whole tiles of it.
  block = min(max(16, 2048 // num_frames // 16 * 16), pl.cdiv(num_pixels, 16) * 16)
  grid = (batch_size, pl.cdiv(num_pixels, block), pl.cdiv(channels, LANES))
  spec = pl.BlockSpec((1, num_frames, block, LANES), lambda b, s, a: (b, 0, s, a))
  backward = function is _backward
  num_outputs = 3 if backward else 1
  num_sequences = batch_size * pl.cdiv(num_pixels, PIXELS) * channels // head_dim

  def kernel(*refs):
    _for_each_sequence(
      lambda *sequences: function(*sequences, head_dim, every=PIXELS),
      refs[: len(arrays_BFSC)],
      refs[len(arrays_BFSC) :],
      (num_pixels, channels),
    )

  return pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=[spec] * len(arrays_BFSC),
    out_specs=[spec] * num_outputs,
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * num_outputs,
    cost_estimate=_cost(
      (*arrays_BFSC, *[x] * num_outputs),
      num_scores=num_sequences * (num_frames * PIXELS) ** 2,
      products=5 if backward else 2,
      head_dim=head_dim,
    ),
    interpret=interpret,
    name='frame_attention_' + ('backward' if backward else 'forward'),
  )(*arrays_BFSC)


def _for_each_sequence(function, inputs, outputs, sizes):
  """Calls function(*inputs) -> outputs for each PIXELS of a block, zeros beyond the array."""
  num_pixels, channels = sizes
  num_frames, block = inputs[0].shape[1:3]
  first_pixel, first_channel = pl.program_id(1) * block, pl.program_id(2) * LANES
  # A tile of bfloat16 is two of float32 high: two sequences are read and written at a time.
  rows = 2 * PIXELS
  shape = (num_frames, rows, LANES)
  pixel, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, dim) for dim in (1, 2))

  def do_two(i, _):
    inside = (first_pixel + i * rows + pixel < num_pixels) & (first_channel + lane < channels)
    read = [
      jnp.where(inside, ref[0, :, pl.ds(i * rows, rows)].astype(jnp.float32), 0) for ref in inputs
    ]
    done = []
    for half in (slice(PIXELS), slice(PIXELS, rows)):
      sequences = [x[:, half].reshape(-1, LANES).astype(inputs[0].dtype) for x in read]
      results = function(*sequences)
      done.append(results if isinstance(results, tuple) else (results,))
    for ref, *halves in zip(outputs, *done, strict=True):
      both = [x.reshape(num_frames, PIXELS, LANES) for x in halves]
      ref[0, :, pl.ds(i * rows, rows)] = jnp.concatenate(both, 1).astype(ref.dtype)
    return 0

  jax.lax.fori_loop(0, block // rows, do_two, 0)


def _forward(q_TL, k_UL, v_UL, head_dim, every=1):
  """(T, L) float32. Query i sees key j if they are `every` apart, or a multiple of it."""
  y_TL = jnp.zeros(q_TL.shape, jnp.float32)
  for of_head_TL, head_q_TL in _heads(q_TL, head_dim):
    scores_TU, sum_T1 = _exp_scores(head_q_TL, k_UL, head_dim, every)
    head_y_TL = _dot(scores_TU.astype(v_UL.dtype), v_UL) / sum_T1
    y_TL = jnp.where(of_head_TL, head_y_TL, y_TL)
  return y_TL


def _backward(q_TL, k_UL, v_UL, dy_TL, head_dim, every=1):
  """Gradients of q, k and v, float32."""
  dq_TL, dk_UL, dv_UL = (jnp.zeros(x.shape, jnp.float32) for x in (q_TL, k_UL, v_UL))
  heads = (_heads(x, head_dim) for x in (q_TL, k_UL, dy_TL))
  for (_, q_TL), (_, k_UL), (_, dy_TL) in zip(*heads, strict=True):
    scores_TU, sum_T1 = _exp_scores(q_TL, k_UL, head_dim, every)
    weights_TU = scores_TU * (1 / sum_T1)
    dweights_TU = _dot(dy_TL, v_UL.T)
    mean_T1 = jnp.sum(dweights_TU * weights_TU, -1, keepdims=True)
    dscores_TU = (weights_TU * (dweights_TU - mean_T1)).astype(q_TL.dtype)
    dq_TL += _dot(dscores_TU, k_UL)
    dk_UL += _dot(dscores_TU.T, q_TL)
    dv_UL += _dot(weights_TU.astype(dy_TL.dtype).T, dy_TL)
  scale = head_dim**-0.5
  return dq_TL * scale, dk_UL * scale, dv_UL


def _heads(x_TL, head_dim):
  """[(mask of its lanes, x with zeros in all others)] of each head that lies in the lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x_TL.shape, 1)
  for head in range(LANES // head_dim):
    mask = lane // head_dim == head
    yield mask, jnp.where(mask, x_TL, 0)


def _exp_scores(q_TL, k_UL, head_dim, every):
  """(exp(scores - their maximum), their sum): (T, U) and (T, 1)."""
  scores_TU = _dot((q_TL * head_dim**-0.5).astype(q_TL.dtype), k_UL.T)
  if every > 1:
    row, column = (jax.lax.broadcasted_iota(jnp.int32, scores_TU.shape, dim) for dim in (0, 1))
    scores_TU = jnp.where(row % every == column % every, scores_TU, MASKED)
  scores_TU = jnp.exp(scores_TU - jnp.max(scores_TU, -1, keepdims=True))
  return scores_TU, jnp.sum(scores_TU, -1, keepdims=True)


def _dot(a, b):
  precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
  return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=precision)


def _cost(arrays, num_scores, products, head_dim):
  return pl.CostEstimate(
    flops=products * 2 * num_scores * head_dim,
    transcendentals=num_scores,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )
