"""Attention over frames as a Pallas kernel for TPU: few keys for a query, but at every pixel.

Heads lie in lanes as in pallas_attention.py; `interpret` runs the kernel without a TPU.

Dimension key: B batch, F frames, S pixels, C = heads x head_dim channels; within a kernel T
queries, U keys, L lanes.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from i2vgen_jax.models import pallas_attention
from i2vgen_jax.models.pallas_attention import LANES

PIXELS = 8  # Pixels of a sequence: the rows of a float32 tile.
MOST_FRAMES = 64


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
  block = min(max(16, 2048 // num_frames // 16 * 16), pl.cdiv(num_pixels, 16) * 16)
  grid = (batch_size, pl.cdiv(num_pixels, block), pl.cdiv(channels, LANES))
  spec = pl.BlockSpec((1, num_frames, block, LANES), lambda b, s, a: (b, 0, s, a))
  backward = function is _backward
  num_outputs = 3 if backward else 1
  num_sequences = batch_size * pl.cdiv(num_pixels, PIXELS) * channels // head_dim

  def kernel(*refs):
    _for_each_sequence(
      lambda *sequences: function(*sequences, head_dim),
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
    cost_estimate=pallas_attention.cost(
      (*arrays_BFSC, *[x] * num_outputs),
      num_scores=num_sequences * (num_frames * PIXELS) ** 2,
      products=5 if backward else 2,
      head_dim=head_dim,
    ),
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel',) * 3),
    metadata=pallas_attention.trips(block // (2 * PIXELS)),
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


def _forward(q_TL: jax.Array, k_UL: jax.Array, v_UL: jax.Array, head_dim: int) -> jax.Array:
  """(T, L) float32. A query sees keys that are PIXELS apart, or a multiple of it."""
  y_TL = jnp.zeros(q_TL.shape, jnp.float32)
  for of_head_TL, head_q_TL in _heads(q_TL, head_dim):
    scores_TU, sum_T1 = _exp_scores(head_q_TL, k_UL, head_dim)
    head_y_TL = pallas_attention.dot(scores_TU.astype(v_UL.dtype), v_UL, over=(1, 0)) / sum_T1
    y_TL = jnp.where(of_head_TL, head_y_TL, y_TL)
  return y_TL


def _backward(
  q_TL: jax.Array, k_UL: jax.Array, v_UL: jax.Array, dy_TL: jax.Array, head_dim: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Gradients of q, k and v, float32."""
  dq_TL, dk_UL, dv_UL = (jnp.zeros(x.shape, jnp.float32) for x in (q_TL, k_UL, v_UL))
  heads = (_heads(x, head_dim) for x in (q_TL, k_UL, dy_TL))
  for (_, q_TL), (_, k_UL), (_, dy_TL) in zip(*heads, strict=True):
    scores_TU, sum_T1 = _exp_scores(q_TL, k_UL, head_dim)
    weights_TU = scores_TU * (1 / sum_T1)
    dweights_TU = pallas_attention.dot(dy_TL, v_UL, over=(1, 1))
    mean_T1 = jnp.sum(dweights_TU * weights_TU, -1, keepdims=True)
    dscores_TU = (weights_TU * (dweights_TU - mean_T1)).astype(q_TL.dtype)
    dq_TL += pallas_attention.dot(dscores_TU, k_UL, over=(1, 0))
    dk_UL += pallas_attention.dot(dscores_TU, q_TL, over=(0, 0))
    dv_UL += pallas_attention.dot(weights_TU.astype(dy_TL.dtype), dy_TL, over=(0, 0))
  scale = head_dim**-0.5
  return dq_TL * scale, dk_UL * scale, dv_UL


def _heads(x_TL: jax.Array, head_dim: int) -> Iterator[tuple[jax.Array, jax.Array]]:
  """[(mask of its lanes, x with zeros in all others)] of each head that lies in the lanes."""
  lane = jax.lax.broadcasted_iota(jnp.int32, x_TL.shape, 1)
  for head in range(LANES // head_dim):
    mask = lane // head_dim == head
    yield mask, jnp.where(mask, x_TL, 0)


def _exp_scores(q_TL: jax.Array, k_UL: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
  """(exp(scores - their maximum), their sum): (T, U) and (T, 1)."""
  scores_TU = pallas_attention.dot(pallas_attention.scale(q_TL, head_dim), k_UL, over=(1, 1))
  row, column = (jax.lax.broadcasted_iota(jnp.int32, scores_TU.shape, dim) for dim in (0, 1))
  scores_TU = jnp.where(row % PIXELS == column % PIXELS, scores_TU, pallas_attention.MASKED)
  scores_TU = jnp.exp(scores_TU - jnp.max(scores_TU, -1, keepdims=True))
  return scores_TU, jnp.sum(scores_TU, -1, keepdims=True)
