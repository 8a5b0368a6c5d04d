"""Gradients of several slices: each replica's by itself, then one reduction over all of them.

Left to XLA, a gradient is reduced where it is made. Once reductions cross the network between
slices, libtpu (0.0.52) no longer fuses sums, as of biases and norms, with what makes their terms:
for a ResBlock on 2 slices of v5p 17.8 ms in place of 11.3, for a TemporalTransformer 19.1 in place
of 12.8 (docs/performance.md). Behind a barrier they are fused as on one slice.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax

from i2vgen_jax.parallel import lowering

P = jax.sharding.PartitionSpec
# Axes of parallel/mesh.py over which parameters are whole. In one reduction over both, libtpu
# adds up within a slice first, so that every device sends its own part to the other slices.
REPLICAS = ('slice', 'data')
ROWS = 'fsdp'  # The axis that splits a replica's rows.


def mean_over_replicas(function: Callable[..., Any], has_rows: bool = False) -> Callable[..., Any]:
  """The function of whole batches, computed by replicas where there are several slices.

  Args:
    function: (batch, *others) -> means over the rows that it sees, which are those of one replica:
      an array, a dict or a tuple of them. Each entry of a dict is reduced as soon as it is there.
      Nothing changes if the current mesh has one slice.
    has_rows: whether the function returns (means, rows); arrays in rows have the leading dim of the
      batch.
  """

  def of_replica(batch, *others):
    # Say it once more: in here XLA would split channels, not rows, over a replica's devices.
    batch = jax.lax.with_sharding_constraint(batch, P(ROWS))
    if not has_rows:
      return _mean(function(batch, *others))
    means, rows = function(batch, *others)
    return _mean(means), rows

  @functools.wraps(function)
  def of_whole_batch(batch, *others):
    if jax.sharding.get_abstract_mesh().shape.get('slice', 1) == 1:
      return function(batch, *others)
    lowering.leave_out_empty_constraints()
    return jax.shard_map(
      of_replica,
      in_specs=(P(REPLICAS), *[P()] * len(others)),
      out_specs=(P(), P(REPLICAS)) if has_rows else P(),
      axis_names=set(REPLICAS),
      check_vma=False,
    )(batch, *others)

  return of_whole_batch


def _mean(tree: Any) -> Any:
  if isinstance(tree, tuple):
    return tuple(map(_mean, tree))
  entries = tree if isinstance(tree, dict) else {'': tree}
  means = {
    name: jax.lax.pmean(jax.lax.optimization_barrier(entry), REPLICAS)
    for name, entry in entries.items()
  }
  return means if isinstance(tree, dict) else means['']
