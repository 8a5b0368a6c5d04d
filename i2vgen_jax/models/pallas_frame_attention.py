"""Attention over frames as a Pallas kernel for TPU: few keys for a query, but at every pixel.

Heads lie in lanes as in pallas_attention.py; `interpret` runs the kernel without a TPU.

Dimension key: B batch, F frames, S pixels, C = heads x head_dim channels; within a kernel T
queries, U keys, L lanes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from i2vgen_jax.models import pallas_attention
from i2vgen_jax.models.pallas_parts import LANES, VECTOR_MEMORY, dot, trips

PIXELS = 8  # Pixels of a sequence: the rows of a float32 tile.
ROWS = 2 * PIXELS  # Of a tile of bfloat16: two sequences are read and written at a time.
SCORES = 4 * 128**2  # Of two sequences each: so many are worked on side by side, stage by stage, as
# the compiler moves no work far, and one sequence alone waits for each of its results.
MOST_FRAMES = 64
Sequences = list[Sequence[jax.Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend_over_frames(
  q_BFSC: jax.Array, k_BFSC: jax.Array, v_BFSC: jax.Array, head_dim: int, interpret: bool = False
) -> jax.Array:
  """softmax(q k^T / sqrt(head_dim)) v over the frames of each pixel, head by head: (B, F, S, C).

  Eight pixels of all frames are one sequence, as they lie in memory, in which a token sees those of
  its own pixel alone: seven eighths of the scores are masked, which costs less than a layout in
  which none is. At most MOST_FRAMES frames.

  Args:
    q_BFSC: queries.
    k_BFSC: keys.
    v_BFSC: values.
    head_dim: channels of a head: 64 or 128.
    interpret: whether to run without a TPU.
  """
  return _over_frames(_forward, (q_BFSC, k_BFSC, v_BFSC), head_dim, interpret)[0]


def _over_frames_forward(q_BFSC, k_BFSC, v_BFSC, head_dim, interpret):
  y_BFSC = attend_over_frames(q_BFSC, k_BFSC, v_BFSC, head_dim, interpret)
  y_BFSC = checkpoint_name(y_BFSC, pallas_attention.RESULT)
  return y_BFSC, (q_BFSC, k_BFSC, v_BFSC)


def _over_frames_backward(head_dim, interpret, qkv, dy_BFSC):
  return tuple(_over_frames(_backward, (*qkv, dy_BFSC), head_dim, interpret))


attend_over_frames.defvjp(_over_frames_forward, _over_frames_backward)


def _over_frames(
  function: Callable[..., Any], arrays_BFSC: Sequence[jax.Array], head_dim: int, interpret: bool
) -> list[jax.Array]:
  """Runs a function on all sequences, in blocks of all frames, some pixels and 128 lanes."""
  x = arrays_BFSC[0]
  batch_size, num_frames, num_pixels, channels = x.shape
  # Half a MiB of each array in bfloat16, and whole tiles of it.
  block = min(max(ROWS, 2048 // num_frames // ROWS * ROWS), pl.cdiv(num_pixels, ROWS) * ROWS)
  grid = (batch_size, pl.cdiv(num_pixels, block), pl.cdiv(channels, LANES))
  spec = pl.BlockSpec((1, num_frames, block, LANES), lambda b, s, a: (b, 0, s, a))
  backward = function is _backward
  num_outputs = 3 if backward else 1
  num_sequences = batch_size * pl.cdiv(num_pixels, PIXELS) * channels // head_dim
  length = num_frames * PIXELS
  side_by_side = _divisor(block // ROWS, max(1, SCORES // length**2))
  num_groups = block // ROWS // side_by_side

  def kernel(*refs):
    _for_each_group(
      lambda sequences: function(sequences, head_dim, refs[-1]),
      refs[: len(arrays_BFSC)],
      refs[len(arrays_BFSC) : -1],
      refs[-1],
      (num_pixels, channels, num_groups),
    )

  return pl.pallas_call(
    kernel,
    grid=grid,
    in_specs=[spec] * len(arrays_BFSC),
    out_specs=[spec] * num_outputs,
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * num_outputs,
    scratch_shapes=[pltpu.VMEM((length, length), jnp.float32)],
    cost_estimate=pallas_attention.cost(
      (*arrays_BFSC, *[x] * num_outputs),
      num_scores=num_sequences * length**2,
      products=5 if backward else 2,
      head_dim=head_dim,
    ),
    compiler_params=pltpu.CompilerParams(
      vmem_limit_bytes=VECTOR_MEMORY, dimension_semantics=('parallel',) * 3
    ),
    metadata=trips(*([num_groups] if num_groups > 1 else [])),
    interpret=interpret,
    name='frame_attention_' + ('backward' if backward else 'forward'),
  )(*arrays_BFSC)


def _divisor(number: int, most: int) -> int:
  """The largest divisor of `number` up to `most`."""
  return next(n for n in range(min(number, most), 0, -1) if number % n == 0)


def _for_each_group(function, inputs, outputs, bias_UT, sizes):
  """Calls function([inputs of a sequence]) -> [outputs] for groups of sequences, zeros beyond the
  array; in `bias_UT` it leaves what masks the scores of other pixels."""
  num_pixels, channels, num_groups = sizes
  num_frames, block = inputs[0].shape[1:3]
  row, column = (jax.lax.broadcasted_iota(jnp.int32, bias_UT.shape, dim) for dim in (0, 1))
  same = row % PIXELS == column % PIXELS
  bias_UT[...] = jnp.where(same, 0.0, pallas_attention.MASKED)
  first_pixel, first_channel = pl.program_id(1) * block, pl.program_id(2) * LANES
  shape = (num_frames, ROWS, LANES)
  pixel, lane = (jax.lax.broadcasted_iota(jnp.int32, shape, dim) for dim in (1, 2))
  rows_of_group = block // num_groups

  def read(ref, start):
    x = ref[0, :, pl.ds(start, ROWS)].astype(jnp.float32)
    if num_pixels % block or channels % LANES:
      x = jnp.where(
        (first_pixel + start + pixel < num_pixels) & (first_channel + lane < channels), x, 0
      )
    halves = (x[:, half].reshape(-1, LANES) for half in (slice(PIXELS), slice(PIXELS, ROWS)))
    return [half.astype(ref.dtype) for half in halves]

  def do_group(i, _):
    starts = [pl.multiple_of(i * rows_of_group, ROWS) + n for n in range(0, rows_of_group, ROWS)]
    read_pairs = [[read(ref, start) for ref in inputs] for start in starts]
    sequences = [[half[n] for half in pair] for pair in read_pairs for n in range(2)]
    results = function(sequences)
    for start, *pair in zip(starts, results[::2], results[1::2], strict=True):
      for ref, *halves in zip(outputs, *pair, strict=True):
        both = [x.reshape(num_frames, PIXELS, LANES) for x in halves]
        ref[0, :, pl.ds(start, ROWS)] = jnp.concatenate(both, 1).astype(ref.dtype)

  if num_groups == 1:
    do_group(0, None)
  else:
    jax.lax.fori_loop(0, num_groups, do_group, None)


def _forward(sequences: Sequences, head_dim: int, bias_UT: Any) -> list[tuple[jax.Array, ...]]:
  """[(y_TL,)] of [(q_TL, k_UL, v_UL)], float32; one stage of all after the other."""
  scores = [
    [
      dot(k_UL, q_TL, over=(1, 1))
      for q_TL in _heads(pallas_attention.scale(q_TL, head_dim), head_dim)
    ]
    for q_TL, k_UL, _ in sequences
  ]
  values_LU = [v_UL.T for *_, v_UL in sequences]
  weights = [[_weights(scores_UT, bias_UT) for scores_UT in heads] for heads in scores]
  found: list[tuple[jax.Array, ...]] = []
  for v_LU, heads in zip(values_LU, weights, strict=True):
    y_LT = [
      dot(v_LU[rows], exp_UT.astype(v_LU.dtype), over=(1, 0)) / sum_1T
      for rows, (exp_UT, sum_1T) in zip(_rows(head_dim), heads, strict=True)
    ]
    found.append((jnp.concatenate(y_LT, 0).T,))
  return found


def _backward(sequences: Sequences, head_dim: int, bias_UT: Any) -> list[tuple[jax.Array, ...]]:
  """[(dq_TL, dk_UL, dv_UL)] of [(q_TL, k_UL, v_UL, dy_TL)], likewise."""
  sequences = [(pallas_attention.scale(q_TL, head_dim), *others) for q_TL, *others in sequences]
  products = [
    [
      (
        dot(k_UL, q_TL, over=(1, 1)),
        dot(v_UL, dy_TL, over=(1, 1)),
      )
      for q_TL, dy_TL in zip(_heads(all_q_TL, head_dim), _heads(all_dy_TL, head_dim), strict=True)
    ]
    for all_q_TL, k_UL, v_UL, all_dy_TL in sequences
  ]
  turned = [(q_TL.T, k_UL.T, dy_TL.T) for q_TL, k_UL, _, dy_TL in sequences]
  kind = sequences[0][0].dtype
  gradients = [[_score_gradients(*pair, bias_UT, kind) for pair in heads] for heads in products]
  found = []
  for (q_LT, k_LU, dy_LT), heads in zip(turned, gradients, strict=True):
    parts = [
      (
        dot(k_LU[rows], dscores_UT, over=(1, 0)) * head_dim**-0.5,
        dot(q_LT[rows], dscores_UT, over=(1, 1)),
        dot(dy_LT[rows], weights_UT, over=(1, 1)),
      )
      for rows, (weights_UT, dscores_UT) in zip(_rows(head_dim), heads, strict=True)
    ]
    found.append(tuple(jnp.concatenate(part, 0).T for part in zip(*parts, strict=True)))
  return found


def _score_gradients(
  scores_UT: jax.Array, dweights_UT: jax.Array, bias_UT: Any, kind: Any
) -> tuple[jax.Array, jax.Array]:
  """(weights, gradients of the scores), of type `kind`."""
  exp_UT, sum_1T = _weights(scores_UT, bias_UT)
  weights_UT = exp_UT * (1 / sum_1T)
  mean_1T = jnp.sum(weights_UT * dweights_UT, 0, keepdims=True)
  return weights_UT.astype(kind), (weights_UT * (dweights_UT - mean_1T)).astype(kind)


def _weights(scores_UT: jax.Array, bias_UT: Any) -> tuple[jax.Array, jax.Array]:
  """(exp(scores - their maximum), their sum): (U, T) and (1, T). A query is a column."""
  scores_UT = scores_UT + bias_UT[...]
  scores_UT = jnp.exp(scores_UT - jnp.max(scores_UT, 0, keepdims=True))
  return scores_UT, jnp.sum(scores_UT, 0, keepdims=True)


def _heads(x_TL: jax.Array, head_dim: int) -> list[jax.Array]:
  """x with zeros in all lanes but a head's, of each head that lies in the lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x_TL.shape, 1)
  return [jnp.where(lane // head_dim == head, x_TL, 0) for head in range(LANES // head_dim)]


def _rows(head_dim: int) -> list[slice]:
  """The heads' rows of what has lanes in rows."""
  return [slice(start, start + head_dim) for start in range(0, LANES, head_dim)]
