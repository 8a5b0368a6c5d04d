"""Some steps are looked at more closely: taken twice and compared, or measured by block.

Silent data corruption: a device that computes wrong numbers without an error. The same program
gives the same bits from the same state and batch, so that a difference is a fault of a device or of
its memory. A fault that strikes twice alike is not seen, and one before gradients are summed over
devices shows on all of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from i2vgen_jax.parallel import sharding
from i2vgen_jax.training import writer as writer_lib

MOST_SHOWN = 10  # Tensors of an error.


class Examined:
  """The train steps of a run, of which every so many are examined.

  Args:
    steps: (bucket, state, frozen, batch) -> (state, metrics); the state is donated.
    writer: of the metrics.
    replay_every: steps between those that are taken twice, which needs room for a second state on
      the devices; 0 takes none twice.
    norms_every: steps between those whose gradients and updates are measured by top-level block of
      the U-Net, which needs room for second parameters; 0 measures none.
  """

  def __init__(
    self,
    steps: Callable[..., tuple[Any, dict[str, Any]]],
    writer: writer_lib.Writer,
    replay_every: int,
    norms_every: int,
  ):
    if replay_every < 0 or norms_every < 0:
      raise ValueError(
        f'train.replay_every={replay_every}, train.norms_every={norms_every}: give steps, or 0.'
      )
    self._steps, self._writer = steps, writer
    self._replay_every, self._norms_every = replay_every, norms_every

  def __call__(
    self, step: int, bucket: str, state: Any, frozen: Any, batch: Any
  ) -> tuple[Any, dict[str, Any]]:
    """(the next state, metrics).

    Args:
      step: steps done.
      bucket: name of the batch's bucket.
      state: a TrainState; it is donated.
      frozen: parameters by network.
      batch: placed on the mesh.

    Raises:
      jax.errors.JaxRuntimeError: DATA_LOSS: the step gave other bits the second time.
    """
    is_replayed = self._replay_every and (step + 1) % self._replay_every == 0
    is_measured = self._norms_every and (step + 1) % self._norms_every == 0
    copy = _copy(state) if is_replayed else None
    params = _copy(state.params) if is_measured else None
    state, metrics = self._steps(bucket, state, frozen, batch)
    if is_replayed:
      again, _ = self._steps(bucket, copy, frozen, batch)
      check_same(again, state, f'step {step} taken twice')
    gradients = metrics.pop('grad_norms', {})
    if is_measured:
      norms = {'grad_norm': gradients, 'update_norm': _norms_of_change(state.params, params)}
      scalars = {f'{kind}/{name}': norms[kind][name] for kind in norms for name in norms[kind]}
      self._writer.scalars(step + 1, {n: v for n, v in scalars.items() if np.isfinite(v)})
    return state, metrics


def norms_by_block(tree: Any) -> dict[str, jax.Array]:
  """Euclidean norm of each top branch."""
  return {name: optax.tree.norm(branch) for name, branch in tree.items()}


@jax.jit
def _norms_of_change(after: Any, before: Any) -> dict[str, jax.Array]:
  return norms_by_block(jax.tree.map(jnp.subtract, after, before))


def _copy(tree: Any) -> Any:
  placed = jax.tree.map(lambda leaf: leaf.sharding, tree)
  return jax.device_put(tree, placed, may_alias=False)


def check_same(found: Any, expected: Any, what: str) -> None:
  """Compares two trees of arrays to the bit; all hosts call it together.

  Args:
    found: arrays.
    expected: arrays of the same names, shapes and places.
    what: names `found` in the error.

  Raises:
    jax.errors.JaxRuntimeError: DATA_LOSS: they differ; the first tensors are named, with the
      largest difference in each and the devices of this host that hold other bits.
  """
  theirs = sharding.by_path(expected)
  compared = {name: (leaf, theirs[name]) for name, leaf in sharding.by_path(found).items()}
  # One after the other: many programs at once whose devices wait for each other block a CPU.
  results = {name: jax.device_get(_compare(*pair)) for name, pair in compared.items()}
  different = {name: float(size) for name, (differs, size) in results.items() if differs}
  if not different:
    logging.info('%s: all %d tensors are equal to the bit.', what, len(compared))
    return
  lines = [
    f'{name}: by up to {size:.3g}, on {", ".join(_devices(*compared[name])) or "other hosts"}'
    for name, size in list(different.items())[:MOST_SHOWN]
  ]
  lines += [f'... and {len(different) - MOST_SHOWN} more'] * (len(different) > MOST_SHOWN)
  message = f'DATA_LOSS: {what}: {len(different)} of {len(compared)} tensors differ:\n  '
  message += '\n  '.join(lines)
  logging.error('Process %d: %s', jax.process_index(), message)
  raise jax.errors.JaxRuntimeError(message)


@jax.jit
def _compare(one: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(whether any bit differs, the largest difference)."""
  one, other = jax.device_put((one, other), jax.memory.Space.Device)
  size = jnp.max(jnp.abs(one.astype(jnp.float32) - other.astype(jnp.float32)), initial=0)
  if jnp.issubdtype(one.dtype, jnp.floating):
    bits = jnp.dtype(f'uint{8 * one.dtype.itemsize}')
    one, other = (jax.lax.bitcast_convert_type(value, bits) for value in (one, other))
  return jnp.any(one != other), size


def _devices(one: jax.Array, other: jax.Array) -> list[str]:
  """Those of this host on which the bits differ."""
  pairs = zip(one.addressable_shards, other.addressable_shards, strict=True)
  return [
    str(mine.device)
    for mine, theirs in pairs
    if np.asarray(mine.data).tobytes() != np.asarray(theirs.data).tobytes()
  ]
