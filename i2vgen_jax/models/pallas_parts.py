"""What the Pallas kernels for TPU have in common."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128
MOST = 1024  # Rows or columns of a block.
VECTOR_MEMORY = 48 * 2**20  # A v5p core or TPU7x device, the smallest, has 64 MiB.


def block_size(number: int) -> int:
  """How many queries or pixels to a block: the multiple of LANES, up to MOST, by which `number`
  is padded least, counting half of LANES for what each block costs; a number below LANES is one
  block."""
  if number <= LANES:
    return pl.cdiv(number, 16) * 16
  sizes = range(LANES, MOST + 1, LANES)
  return min(sizes, key=lambda size: pl.cdiv(number, size) * (size + LANES // 2))


def dot(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
  """Product of matrices, summed over a dim of each, in float32.

  Args:
    a: (rows, columns).
    b: (rows, columns), of the same type.
    over: the dim of `a` and the dim of `b`, 0 or 1 each.
  """
  return jax.lax.dot_general(
    a,
    b,
    (([over[0]], [over[1]]), ([], [])),
    precision=jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )


def trips(*loops: float) -> dict[str, str]:
  """A kernel's metadata: trips of its loops, in their order, for each of what is around them.

  The schedule, which plan/bundles.py reads, does not say.
  """
  return {'loops': ' '.join(f'{number:.6g}' for number in loops)}
