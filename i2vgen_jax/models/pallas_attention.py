"""Attention as Pallas kernels for TPU that read and write activations as they lie in memory.

Heads of size 64 lie beside each other, two in the 128 lanes of a tile. XLA's products and JAX's
kernels want each head in a tile of its own, half of it empty, and so every query, key, value and
gradient is copied there and back. Here the products of a head are made with the lanes of the other
set to zero, which costs a multiplier of 128 nothing, and nothing moves.

All keys of a row are in vector memory, and softmax goes through them in chunks. Products take the
inputs' type and sum in float32; softmax is float32. `interpret` runs a kernel without a TPU.
docs/performance.md has what can be measured without one.

Dimension key: B batch, T queries, U keys, C = heads x head_dim channels; within a kernel L lanes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from i2vgen_jax.models.pallas_parts import LANES, VECTOR_MEMORY, block_size, dot, trips

MOST_KEYS = 16_384  # Of two bytes a channel.
CHUNK = 1024  # Most keys of a chunk.
RESULT = 'attention_result'  # Remat policies may keep it (unet3d.POLICIES).
MASKED = -1e30
MOST_JUMP = 60.0  # exp(60) times the keys of a chunk is far from float32's limit of exp(88).


def most_keys(dtype: DTypeLike) -> int:
  """How many keys of a type the vector memory holds, with their gradients."""
  return MOST_KEYS * 2 // jnp.dtype(dtype).itemsize


def fits_heads(head_dim: int) -> bool:
  """Whether heads of this size fill the lanes."""
  return head_dim in (LANES // 2, LANES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attend(
  q_BTC: jax.Array, k_BUC: jax.Array, v_BUC: jax.Array, head_dim: int, interpret: bool = False
) -> jax.Array:
  """softmax(q k^T / sqrt(head_dim)) v, head by head: (B, T, C); U is at most most_keys.

  Args:
    q_BTC: queries.
    k_BUC: keys.
    v_BUC: values.
    head_dim: channels of a head: 64 or 128 (fits_heads).
    interpret: whether to run without a TPU.
  """
  return _attend(q_BTC, k_BUC, v_BUC, head_dim, interpret)[0]


def _attend_forward(q_BTC, k_BUC, v_BUC, head_dim, interpret):
  y_BTC, log_sums = _attend(q_BTC, k_BUC, v_BUC, head_dim, interpret)
  y_BTC, log_sums = (checkpoint_name(x, RESULT) for x in (y_BTC, log_sums))
  return y_BTC, (q_BTC, k_BUC, v_BUC, y_BTC, log_sums)


def _attend_backward(head_dim, interpret, residuals, dy_BTC):
  q_BTC, k_BUC, v_BUC, y_BTC, log_sums = residuals
  blocks = _Blocks(q_BTC, k_BUC, head_dim)
  kind = q_BTC.dtype
  of_block, float_block = blocks.scratch(kind), blocks.scratch(jnp.float32)
  of_keys, float_keys = blocks.keys_scratch(kind), blocks.keys_scratch(jnp.float32)
  return blocks.call(
    _backward_kernel,
    inputs=(q_BTC, y_BTC, dy_BTC, log_sums, k_BUC, v_BUC),
    specs=[*[blocks.of_queries] * 3, blocks.of_sums, *[blocks.of_keys] * 2],
    outputs=(q_BTC, k_BUC, v_BUC),
    output_specs=[blocks.of_queries, *[blocks.of_keys] * 2],
    scratch_shapes=[of_block, of_block, float_block, float_block, of_keys, float_keys, float_keys],
    loops=(
      *blocks.loop_of_chunks(once=True),
      blocks.heads,
      *blocks.loop_of_chunks(),
      *blocks.loop_of_chunks(once=True),
    ),
    products=5,
    interpret=interpret,
    name='attention_backward',
  )


attend.defvjp(_attend_forward, _attend_backward)


def _attend(
  q_BTC: jax.Array, k_BUC: jax.Array, v_BUC: jax.Array, head_dim: int, interpret: bool
) -> list[jax.Array]:
  """(output, logarithm of the sum of each query's exp(scores): float32 (B, tiles, heads, T))."""
  blocks = _Blocks(q_BTC, k_BUC, head_dim)
  return blocks.call(
    _forward_kernel,
    inputs=(q_BTC, k_BUC, v_BUC),
    specs=[blocks.of_queries, *[blocks.of_keys] * 2],
    outputs=(q_BTC, blocks.sums),
    output_specs=[blocks.of_queries, blocks.of_sums],
    scratch_shapes=[blocks.scratch(jnp.float32), blocks.keys_scratch(v_BUC.dtype)],
    loops=(
      *blocks.loop_of_chunks(once=True),
      blocks.heads,
      *blocks.loop_of_chunks(),
      *(0 for _ in blocks.loop_of_chunks()),
    ),
    products=2,
    interpret=interpret,
    name='attention_forward',
  )


class _Blocks:
  """How attention is cut: over rows, tiles of 128 lanes, and, innermost, blocks of queries.

  All keys of a tile are in vector memory, and are read in equal chunks.
  """

  def __init__(self, q_BTC: jax.Array, k_BUC: jax.Array, head_dim: int) -> None:
    (batch_size, self.num_queries, self.channels), num_keys = q_BTC.shape, k_BUC.shape[1]
    self.num_keys, self.head_dim = num_keys, head_dim
    self.block = block_size(self.num_queries)
    # Chunks are whole tiles of bfloat16, which are 16 rows high.
    self.num_chunks = pl.cdiv(num_keys, CHUNK)
    self.chunk = pl.cdiv(num_keys, 16 * self.num_chunks) * 16
    self.padded_keys = self.num_chunks * self.chunk
    num_tiles, self.num_blocks = (
      pl.cdiv(self.channels, LANES),
      pl.cdiv(self.num_queries, self.block),
    )
    self.grid = (batch_size, num_tiles, self.num_blocks)
    self.heads = self.channels / head_dim / num_tiles  # Of a tile, on average.
    per_tile = LANES // head_dim
    self.sums = jax.ShapeDtypeStruct(
      (batch_size, num_tiles, per_tile, self.num_blocks * self.block), jnp.float32
    )
    self.of_queries = pl.BlockSpec((1, self.block, LANES), lambda b, a, t: (b, t, a))
    self.of_sums = pl.BlockSpec((1, 1, per_tile, self.block), lambda b, a, t: (b, a, 0, t))
    # One buffer: the next row's keys come late, but after thousands of queries.
    self.of_keys = pl.BlockSpec(
      (1, self.padded_keys, LANES), lambda b, a, t: (b, 0, a), pipeline_mode=pl.Buffered(1)
    )

  def scratch(self, dtype: Any) -> Any:
    """Vector memory for a block of queries, (L, T)."""
    return pltpu.VMEM((LANES, self.block), dtype)

  def keys_scratch(self, dtype: Any) -> Any:
    """Vector memory for all keys, chunk by chunk: (chunks, L, U)."""
    return pltpu.VMEM((self.num_chunks, LANES, self.chunk), dtype)

  def loop_of_chunks(self, once: bool = False) -> tuple[float, ...]:
    """Trips of a loop over chunks, if there is one.

    Args:
      once: it is gone through at one block of queries alone.
    """
    trips = self.num_chunks / (self.num_blocks if once else 1)
    return (trips,) if self.num_chunks > 1 else ()

  def call(
    self,
    kernel: Callable[..., None],
    inputs: Sequence[jax.Array],
    specs: Sequence[pl.BlockSpec],
    outputs: Sequence[jax.Array | jax.ShapeDtypeStruct],
    output_specs: Sequence[pl.BlockSpec],
    loops: Sequence[float],
    products: int,
    **options: Any,
  ) -> Any:
    """Runs a kernel over the grid; outputs are like the arrays or shapes of `outputs`."""
    num_heads = self.channels // self.head_dim
    return pl.pallas_call(
      functools.partial(kernel, self),
      grid=self.grid,
      in_specs=specs,
      out_specs=output_specs,
      out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in outputs],
      cost_estimate=cost(
        (*inputs, *outputs),
        num_scores=self.grid[0] * num_heads * self.num_queries * self.num_keys,
        products=products,
        head_dim=self.head_dim,
      ),
      # Parallel: divided over the two cores of a v5p chip.
      compiler_params=pltpu.CompilerParams(
        vmem_limit_bytes=VECTOR_MEMORY,
        dimension_semantics=('parallel', 'parallel', 'arbitrary'),
      ),
      metadata=trips(*loops),
      **options,
    )(*inputs)

  def lanes(self) -> jax.Array:
    """How many lanes of the kernel's tile hold channels."""
    return jnp.minimum(LANES, self.channels - pl.program_id(1) * LANES)

  def read_queries(self, ref: Any, lanes: jax.Array) -> jax.Array:
    """(T, L), with zeros for what lies beyond the array: a block may hold anything there, and
    0 x NaN is NaN."""
    return self._inside(ref[0], pl.program_id(2) * self.block, self.num_queries, lanes)

  def read_keys(
    self, ref: Any, start: int | jax.Array, lanes: jax.Array, size: int | None = None
  ) -> jax.Array:
    """(U, L), a chunk or as many as `size`, likewise."""
    return self._inside(ref[0, pl.ds(start, size or self.chunk)], start, self.num_keys, lanes)

  def _inside(
    self, x: jax.Array, first_row: int | jax.Array, num_rows: int, lanes: jax.Array
  ) -> jax.Array:
    if num_rows % x.shape[0] == 0 and self.channels % LANES == 0:
      return x
    row, lane = (jax.lax.broadcasted_iota(jnp.int32, x.shape, dim) for dim in (0, 1))
    return jnp.where((lane < lanes) & (first_row + row < num_rows), x, 0)

  def over_heads(self, function: Callable[..., None], lanes: jax.Array) -> None:
    """function(head, its rows of what has lanes in rows) for each head of the tile."""

    def of_head(head, _):
      function(head, pl.ds(pl.multiple_of(head * self.head_dim, self.head_dim), self.head_dim))

    jax.lax.fori_loop(0, lanes // self.head_dim, of_head, None)

  def over_chunks(self, function: Callable[..., Any], init: Any = None) -> Any:
    """function(number, first key, carry) for each chunk of keys."""
    if self.num_chunks == 1:
      return function(0, 0, init)

    def of_chunk(i, carry):
      return function(i, pl.multiple_of(i * self.chunk, 16), carry)

    return jax.lax.fori_loop(0, self.num_chunks, of_chunk, init)

  def of_head(self, x_TL: jax.Array, head: jax.Array) -> jax.Array:
    """x, with zeros in all lanes but the head's."""
    lane = jax.lax.broadcasted_iota(jnp.int32, x_TL.shape, 1)
    return jnp.where(lane // self.head_dim == head, x_TL, 0)

  def scores(self, k_UL: jax.Array, q_TL: jax.Array, start: int | jax.Array) -> jax.Array:
    """(U, T): a query is a column, so that its maximum and sums are rows and broadcast as such."""
    scores_UT = dot(k_UL, q_TL, over=(1, 1))
    if self.padded_keys == self.num_keys:
      return scores_UT
    row = jax.lax.broadcasted_iota(jnp.int32, scores_UT.shape, 0)
    return jnp.where(start + row < self.num_keys, scores_UT, MASKED)


def _forward_kernel(blocks, q_ref, k_ref, v_ref, y_ref, sums_ref, y_LT, v_LU):
  """Weights are exp(scores - the largest of the chunks before), so that no chunk waits for its own.

  If a chunk's largest is too much larger, the head is done again, each chunk by its own; as one
  chunk alone is.
  """
  lanes = blocks.lanes()

  @pl.when(pl.program_id(2) == 0)
  def _():
    def turn(i, start, _):
      v_LU[i] = blocks.read_keys(v_ref, start, lanes).T

    blocks.over_chunks(turn)

  scaled_TL = scale(blocks.read_queries(q_ref, lanes), blocks.head_dim)

  def of_head(head, rows):
    q_TL = blocks.of_head(scaled_TL, head)

    def scores(start, size=None):
      return blocks.scores(blocks.read_keys(k_ref, start, lanes, size), q_TL, start)

    def over_chunks(late, largest_1T):
      y_LT[rows] = jnp.zeros((blocks.head_dim, blocks.block), jnp.float32)

      def of_chunk(i, start, carry):
        largest_1T, sum_1T, jump_1T = carry
        scores_UT = scores(start)
        larger_1T = jnp.maximum(largest_1T, jnp.max(scores_UT, 0, keepdims=True))
        fading_1T = jnp.exp(largest_1T - larger_1T)
        weights_UT = jnp.exp(scores_UT - (largest_1T if late else larger_1T))
        more_LT = dot(v_LU[i, rows], weights_UT.astype(v_LU.dtype), over=(1, 0))
        more_1T = jnp.sum(weights_UT, 0, keepdims=True)
        if late:
          y_LT[rows] = (y_LT[rows] + more_LT) * fading_1T
          sum_1T = (sum_1T + more_1T) * fading_1T
        else:
          y_LT[rows] = y_LT[rows] * fading_1T + more_LT
          sum_1T = sum_1T * fading_1T + more_1T
        return larger_1T, sum_1T, jnp.maximum(jump_1T, larger_1T - largest_1T)

      zero_1T = jnp.zeros((1, blocks.block), jnp.float32)
      return blocks.over_chunks(of_chunk, (largest_1T, zero_1T, zero_1T))

    if blocks.num_chunks == 1:
      lowest_1T = jnp.full((1, blocks.block), MASKED, jnp.float32)
      largest_1T, sum_1T, _ = over_chunks(False, lowest_1T)
    else:
      first_1T = jnp.max(scores(0, LANES), 0, keepdims=True)
      largest_1T, sum_1T, jump_1T = over_chunks(True, first_1T)
      largest_1T, sum_1T, _ = jax.lax.cond(
        jnp.max(jump_1T) > MOST_JUMP,
        lambda: over_chunks(False, first_1T),
        lambda: (largest_1T, sum_1T, jump_1T),
      )
    sums_ref[0, 0, pl.ds(head, 1)] = largest_1T + jnp.log(sum_1T)
    y_LT[rows] = y_LT[rows] / sum_1T

  blocks.over_heads(of_head, lanes)
  y_ref[0] = y_LT[...].T.astype(y_ref.dtype)


def _backward_kernel(
  blocks, q_ref, y_ref, dy_ref, sums_ref, k_ref, v_ref, dq_ref, dk_ref, dv_ref,
  q_LT, dy_LT, y_dy_LT, dq_LT, k_LU, dk_LU, dv_LU,
):  # fmt: skip
  """Of each product, the side that is streamed through the unit has a head's lanes as its rows."""
  lanes = blocks.lanes()

  @pl.when(pl.program_id(2) == 0)
  def _():
    def begin(i, start, _):
      k_LU[i] = blocks.read_keys(k_ref, start, lanes).T
      dk_LU[i] = dv_LU[i] = jnp.zeros(dk_LU.shape[1:], jnp.float32)

    blocks.over_chunks(begin)

  scaled_TL = scale(blocks.read_queries(q_ref, lanes), blocks.head_dim)
  y_TL, all_dy_TL = (blocks.read_queries(ref, lanes) for ref in (y_ref, dy_ref))
  q_LT[...], dy_LT[...] = scaled_TL.T, all_dy_TL.T
  y_dy_LT[...] = (y_TL.astype(jnp.float32) * all_dy_TL.astype(jnp.float32)).T

  def of_head(head, rows):
    q_TL, dy_TL = (blocks.of_head(x, head) for x in (scaled_TL, all_dy_TL))
    log_sum_1T = sums_ref[0, 0, pl.ds(head, 1)]
    mean_1T = jnp.sum(y_dy_LT[rows], 0, keepdims=True)
    dq_LT[rows] = jnp.zeros((blocks.head_dim, blocks.block), jnp.float32)

    def of_chunk(i, start, _):
      k_UL, v_UL = (blocks.read_keys(ref, start, lanes) for ref in (k_ref, v_ref))
      weights_UT = jnp.exp(blocks.scores(k_UL, q_TL, start) - log_sum_1T)
      dweights_UT = dot(v_UL, dy_TL, over=(1, 1))
      dscores_UT = (weights_UT * (dweights_UT - mean_1T)).astype(q_TL.dtype)
      dv_LU[i, rows] += dot(dy_LT[rows], weights_UT.astype(dy_TL.dtype), over=(1, 1))
      dk_LU[i, rows] += dot(q_LT[rows], dscores_UT, over=(1, 1))
      dq_LT[rows] += dot(k_LU[i, rows], dscores_UT, over=(1, 0))

    blocks.over_chunks(of_chunk)

  blocks.over_heads(of_head, lanes)
  dq_ref[0] = (dq_LT[...].T * blocks.head_dim**-0.5).astype(dq_ref.dtype)

  @pl.when(pl.program_id(2) == blocks.num_blocks - 1)
  def _():
    def end(i, start, _):
      keys = pl.ds(start, blocks.chunk)
      dk_ref[0, keys] = dk_LU[i].T.astype(dk_ref.dtype)
      dv_ref[0, keys] = dv_LU[i].T.astype(dv_ref.dtype)

    blocks.over_chunks(end)


def scale(q_TL: jax.Array, head_dim: int) -> jax.Array:
  """Queries, so that their products with keys are the scores."""
  return (q_TL * head_dim**-0.5).astype(q_TL.dtype)


def cost(
  arrays: Sequence[jax.Array | jax.ShapeDtypeStruct], num_scores: int, products: int, head_dim: int
) -> pl.CostEstimate:
  """The cost that a kernel states: it reads or writes each array once.

  Args:
    arrays: inputs and outputs; shapes will do.
    num_scores: pairs of a query and a key, over all heads and rows.
    products: how many matrix products each score takes part in.
    head_dim: channels of a head.
  """
  return pl.CostEstimate(
    flops=products * 2 * num_scores * head_dim,
    transcendentals=num_scores,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
  )
