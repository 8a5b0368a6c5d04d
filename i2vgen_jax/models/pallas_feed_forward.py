"""LayerNorm, gated feed-forward and residual as one Pallas kernel for TPU, forward and backward.

XLA writes what is within, eight times as wide as the input, to memory and reads it again, and its
matrix unit waits for GELU. Here it is in vector memory alone, a chunk at a time, and is made anew
for the gradient. Channels lie in sublanes and pixels in lanes: XLA lays 320 channels so, which
makes the transposition around the kernel free, and no side of a product is padded to 128.

Products take bfloat16 and sum in float32, as all else is. `interpret` runs it without a TPU.
docs/performance.md has what can be measured without one.

Dimension key: B batch, F frames, S pixels, N = B*F, C channels, H = 4*C what is within, P pixels of
a block, U = C + ONES, Z parts of the grid.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

from i2vgen_jax.models.pallas_parts import LANES, VECTOR_MEMORY, block_size, dot, trips

MOST_CHANNELS = 384  # Vector memory holds the kernels and their gradients of so many.
CHUNK = 256  # Of H.
EPSILON = 1e-5
ONES = 16  # Rows under the channels, a tile of bfloat16, whose products are a bias' gradient.
RESULT = 'feed_forward_result'  # Remat policies may keep it (unet3d.POLICIES).


class Weights(NamedTuple):
  """Parameters of a norm and a feed-forward.

  Attributes:
    scale_C, bias_C: of the norm.
    kernel_C2H, bias_2H: values, then gates.
    kernel_HC, bias_out_C: of the product after.
  """

  scale_C: jax.Array
  bias_C: jax.Array
  kernel_C2H: jax.Array
  bias_2H: jax.Array
  kernel_HC: jax.Array
  bias_out_C: jax.Array


def fits(num_pixels: int, channels: int, dtype: DTypeLike) -> bool:
  """Whether the kernel takes such videos, and gains.

  Args:
    num_pixels: of a frame.
    channels: C.
    dtype: of the products.
  """
  whole = channels % (CHUNK // 4) == 0 and channels <= MOST_CHANNELS
  return whole and num_pixels >= LANES and dtype == jnp.bfloat16


def apply(x_BFSC: jax.Array, *weights: jax.Array, interpret: bool = False) -> jax.Array:
  """x + feed_forward(norm(x)): (B, F, S, C).

  Args:
    x_BFSC: bfloat16 features of videos.
    *weights: of Weights, in its order; kernels are rounded to bfloat16.
    interpret: whether to run without a TPU.
  """
  batch_size, num_frames, num_pixels, channels = x_BFSC.shape
  x_NCS = x_BFSC.swapaxes(2, 3).reshape(-1, channels, num_pixels)
  y_NCS = _add(x_NCS, Weights(*weights), interpret)
  return y_NCS.reshape(batch_size, num_frames, channels, num_pixels).swapaxes(2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _add(x_NCS: jax.Array, weights: Weights, interpret: bool) -> jax.Array:
  return _add_forward(x_NCS, weights, interpret)[0]


def _add_forward(x_NCS, weights, interpret):
  blocks = _Blocks(x_NCS, parts=1)
  values = _Kernels(weights, x_NCS.dtype)
  y_NCS = blocks.call(
    _forward_kernel,
    arrays=(x_NCS,),
    weights=(*values.columns, values.in_2HC, values.bias_2H1, values.out_HC.T, values.out_C1),
    results=(),
    scratch=[(blocks.channels, x_NCS.dtype), (blocks.channels, jnp.float32)],
    products=3,
    interpret=interpret,
    name='feed_forward',
  )[0]
  return checkpoint_name(y_NCS, RESULT), (x_NCS, weights)


def _add_backward(interpret, residuals, dy_NCS):
  x_NCS, weights = residuals
  # The cores of a chip make a part each, as they sum gradients of kernels over the steps.
  blocks = _Blocks(x_NCS, parts=2 - x_NCS.shape[0] % 2)
  values, channels = _Kernels(weights, x_NCS.dtype), blocks.channels
  in_2HC = values.in_2HC
  dx_NCS, *sums = blocks.call(
    _backward_kernel,
    arrays=(x_NCS, dy_NCS),
    weights=(*values.columns, in_2HC, values.bias_2H1, values.out_HC, in_2HC.swapaxes(1, 2)),
    results=((2, channels + ONES, 4 * channels), (channels, 4 * channels), (3, channels, LANES)),
    scratch=[(channels + ONES, x_NCS.dtype), (channels, jnp.float32)],
    products=8,
    interpret=interpret,
    name='feed_forward_backward',
  )
  din_2UH, dout_CH, dsums_3CP = (x.sum(0) for x in sums)
  dout_C, dscale_C, dbias_C = dsums_3CP.sum(-1)
  dweights = Weights(
    scale_C=dscale_C,
    bias_C=dbias_C,
    kernel_C2H=jnp.concatenate(list(din_2UH[:, :channels]), -1),
    bias_2H=din_2UH[:, channels].reshape(-1),
    kernel_HC=dout_CH.T,
    bias_out_C=dout_C,
  )
  return dx_NCS, jax.tree.map(lambda d, w: d.astype(w.dtype), dweights, weights)


_add.defvjp(_add_forward, _add_backward)


class _Kernels:
  """Weights as the kernels read them: what a product sums over is beside what it makes."""

  def __init__(self, weights: Weights, dtype: DTypeLike) -> None:
    channels = len(weights.scale_C)
    kernel = weights.kernel_C2H.astype(dtype).reshape(channels, 2, -1)
    self.in_2HC = kernel.transpose(1, 2, 0)
    self.out_HC = weights.kernel_HC.astype(dtype)
    self.columns = [x.astype(jnp.float32)[:, None] for x in (weights.scale_C, weights.bias_C)]
    self.bias_2H1 = weights.bias_2H.astype(jnp.float32).reshape(2, -1, 1)
    self.out_C1 = weights.bias_out_C.astype(jnp.float32)[:, None]


class _Blocks:
  """How the work is cut: parts, in each over frames, and, innermost, blocks of pixels."""

  def __init__(self, x_NCS: jax.Array, parts: int) -> None:
    num_frames, self.channels, self.num_pixels = x_NCS.shape
    self.num_chunks = 4 * self.channels // CHUNK
    self.block, self.parts, self.of_part = block_size(self.num_pixels), parts, num_frames // parts
    self.grid = (parts, self.of_part, pl.cdiv(self.num_pixels, self.block))

  def call(
    self,
    kernel: Any,
    arrays: Any,
    weights: Any,
    results: Any,
    scratch: Any,
    products: int,
    **options: Any,
  ) -> Any:
    """Runs a kernel: [array like x, float32 (parts, *shape) of each of `results`].

    Args:
      kernel: called with blocks and references to all of the below, in order.
      arrays: (N, C, S), of which a block is read at a time.
      weights: read whole.
      results: shapes of what a part sums.
      scratch: (rows, type) of vector memory of a block's width.
      products: how many of C x H each pixel takes part in.
      **options: of pallas_call.
    """
    x_NCS = arrays[0]
    row = pl.BlockSpec((1, self.channels, self.block), lambda z, n, s: (z * self.of_part + n, 0, s))
    out_shapes = [jax.ShapeDtypeStruct((self.parts, *shape), jnp.float32) for shape in results]
    num_products = products * x_NCS.size * 4 * self.channels
    moved = (*arrays, x_NCS, *weights, *out_shapes)
    return pl.pallas_call(
      functools.partial(kernel, self),
      grid=self.grid,
      in_specs=[*[row] * len(arrays), *map(_whole, weights)],
      out_specs=[row, *map(_of_part, results)],
      out_shape=[jax.ShapeDtypeStruct(x_NCS.shape, x_NCS.dtype), *out_shapes],
      scratch_shapes=[pltpu.VMEM((rows, self.block), dtype) for rows, dtype in scratch],
      cost_estimate=pl.CostEstimate(
        flops=2 * num_products,
        transcendentals=4 * x_NCS.size,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
      ),
      compiler_params=pltpu.CompilerParams(
        vmem_limit_bytes=VECTOR_MEMORY,
        # Divided over the two cores of a v5p chip; what a part sums is one core's.
        dimension_semantics=('parallel', 'arbitrary' if results else 'parallel', 'arbitrary'),
      ),
      metadata=trips(self.num_chunks),
      **options,
    )(*arrays, *weights)

  def read(self, ref: Any) -> jax.Array:
    """(C, P) float32, with zeros for what lies beyond the frame."""
    x_CP = ref[0].astype(jnp.float32)
    if self.num_pixels % self.block == 0:
      return x_CP
    lane = jax.lax.broadcasted_iota(jnp.int32, x_CP.shape, 1)
    return jnp.where(pl.program_id(2) * self.block + lane < self.num_pixels, x_CP, 0)

  def over_chunks(self, function: Any) -> None:
    """function(slice of H) for each chunk."""

    def of_chunk(i, _):
      function(pl.ds(pl.multiple_of(i * CHUNK, CHUNK), CHUNK))

    jax.lax.fori_loop(0, self.num_chunks, of_chunk, None)


def _whole(x: jax.Array) -> pl.BlockSpec:
  return pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim, pipeline_mode=pl.Buffered(1))


def _of_part(shape: tuple[int, ...]) -> pl.BlockSpec:
  return pl.BlockSpec((1, *shape), lambda z, *_: (z, *(0 for _ in shape)))


def _forward_kernel(
  blocks, x_ref, scale_ref, bias_ref, in_ref, bias_in_ref, out_ref, bias_out_ref, y_ref,
  normed_CP, y_CP,
):  # fmt: skip
  x_CP = blocks.read(x_ref)
  normed_CP[...] = (_normalize(x_CP)[0] * scale_ref[...] + bias_ref[...]).astype(normed_CP.dtype)
  y_CP[...] = x_CP + bias_out_ref[...]

  def of_chunk(chunk):
    value_HP, gate_HP = _project(in_ref, bias_in_ref, chunk, normed_CP[...])
    h_HP = value_HP * (gate_HP * distribution(gate_HP)[0])
    y_CP[...] += dot(out_ref[:, chunk], h_HP.astype(normed_CP.dtype), over=(1, 0))

  blocks.over_chunks(of_chunk)
  y_ref[0] = y_CP[...].astype(y_ref.dtype)


def _backward_kernel(
  blocks, x_ref, dy_ref, scale_ref, bias_ref, in_ref, bias_in_ref, out_ref, in_2CH_ref,
  dx_ref, din_ref, dout_ref, dsums_ref, normed_UP, dnormed_CP,
):  # fmt: skip
  @pl.when((pl.program_id(1) == 0) & (pl.program_id(2) == 0))
  def _():
    for ref in (din_ref, dout_ref, dsums_ref):
      ref[...] = jnp.zeros_like(ref)

  kind, channels = normed_UP.dtype, blocks.channels
  x_CP, dy_CP = blocks.read(x_ref), blocks.read(dy_ref)
  standard_CP, gain_1P = _normalize(x_CP)
  normed_UP[:channels] = (standard_CP * scale_ref[...] + bias_ref[...]).astype(kind)
  normed_UP[channels:] = jnp.ones((ONES, blocks.block), kind)
  dnormed_CP[...] = jnp.zeros_like(dnormed_CP)
  dsums_ref[0, 0] += _over_tiles(dy_CP)
  dy_CP = dy_CP.astype(kind)

  def of_chunk(chunk):
    value_HP, gate_HP = _project(in_ref, bias_in_ref, chunk, normed_UP[:channels])
    dh_HP = dot(out_ref[chunk], dy_CP, over=(1, 0))
    share_HP, slope_HP = distribution(gate_HP)
    gelu_HP = gate_HP * share_HP
    dvalue_HP = (dh_HP * gelu_HP).astype(kind)
    dgate_HP = (dh_HP * value_HP * (share_HP + gate_HP * slope_HP)).astype(kind)
    dnormed_CP[...] += dot(in_2CH_ref[0, :, chunk], dvalue_HP, over=(1, 0)) + dot(
      in_2CH_ref[1, :, chunk], dgate_HP, over=(1, 0)
    )
    # The side that is streamed through the unit has the channels as its rows.
    din_ref[0, 0, :, chunk] += dot(normed_UP[...], dvalue_HP, over=(1, 1))
    din_ref[0, 1, :, chunk] += dot(normed_UP[...], dgate_HP, over=(1, 1))
    dout_ref[0, :, chunk] += dot(dy_CP, (value_HP * gelu_HP).astype(kind), over=(1, 1))

  blocks.over_chunks(of_chunk)
  x_CP, dnormed = blocks.read(x_ref), dnormed_CP[...]
  standard_CP, gain_1P = _normalize(x_CP)
  dsums_ref[0, 1] += _over_tiles(dnormed * standard_CP)
  dsums_ref[0, 2] += _over_tiles(dnormed)
  dstandard_CP = dnormed * scale_ref[...]
  mean = functools.partial(jnp.mean, axis=0, keepdims=True)
  through_CP = dstandard_CP - mean(dstandard_CP) - standard_CP * mean(dstandard_CP * standard_CP)
  dx_ref[0] = (through_CP * gain_1P + blocks.read(dy_ref)).astype(dx_ref.dtype)


def _normalize(x_CP: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(x less its mean, by its deviation; 1 / the deviation), over channels: (C, P) and (1, P)."""
  x_CP = x_CP - jnp.mean(x_CP, 0, keepdims=True)
  gain_1P = jax.lax.rsqrt(jnp.mean(jnp.square(x_CP), 0, keepdims=True) + EPSILON)
  return x_CP * gain_1P, gain_1P


def _project(in_ref: Any, bias_ref: Any, chunk: Any, normed_CP: jax.Array) -> list[jax.Array]:
  """A chunk of the values and of the gates, float32 (H, P) each."""
  return [dot(in_ref[i, chunk], normed_CP, over=(1, 0)) + bias_ref[i, chunk] for i in range(2)]


def _over_tiles(x_CP: jax.Array) -> jax.Array:
  """(C, LANES): sums of what has the same lane."""
  tiles = (x_CP[:, i : i + LANES] for i in range(0, x_CP.shape[1], LANES))
  return functools.reduce(jnp.add, tiles)


def distribution(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(Normal distribution function of x, its slope), float32, within 3e-5.

  On a TPU erf is the vector unit's largest task in a transformer; this is a tanh whose argument is
  fitted to it (minimax, over -6 to 6).
  """
  near = jnp.clip(x, -6, 6)
  square = near * near
  first, third, fifth = 0.797507874, 0.0370056546, -0.000351518052
  tanh = jnp.tanh(near * (first + square * (third + square * fifth)))
  slope = first + square * (3 * third + square * (5 * fifth))
  return 0.5 + 0.5 * tanh, 0.5 * (1 - tanh * tanh) * slope
