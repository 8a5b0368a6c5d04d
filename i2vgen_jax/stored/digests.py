"""Digests of arrays: two sums per tensor, the same on every mesh, computed where the tensor lies.

An element's bits are weighed by its place in the tensor and added up modulo 2^32. Such sums may be
taken in any order, so each device adds its own part. A changed element always changes the first
sum; what changes several is missed once in 2^64.
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from i2vgen_jax.parallel import sharding

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def of_tree(tree: Any) -> dict[str, str]:
  """Path -> 'float32[3,4] 16 hex digits'; all hosts call it together.

  Args:
    tree: arrays of at most 4 bytes per element.
  """
  leaves = sharding.by_path(tree)
  # No device waits for another: thousands of programs that do would block a CPU's few threads.
  parts = [_sums(leaf, leaf.sharding) for leaf in leaves.values()]
  for part in parts:
    part.copy_to_host_async()
  pairs = [_of_host(leaf, part) for leaf, part in zip(leaves.values(), parts, strict=True)]
  sums = np.array(pairs, np.uint32).reshape(-1, 2)
  if jax.process_count() > 1:
    sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
  return {
    name: f'{signature(leaf)} {first:08x}{second:08x}'
    for (name, leaf), (first, second) in zip(leaves.items(), sums.tolist(), strict=True)
  }


def _of_host(leaf: jax.Array, part: jax.Array) -> np.ndarray:
  """The sums over those parts of a tensor that this host has first; of copies, one counts."""
  by_device = {shard.device: np.asarray(shard.data).reshape(2) for shard in part.addressable_shards}
  total = np.zeros(2, np.uint32)
  for shard in leaf.addressable_shards:
    if shard.replica_id == 0:
      total += by_device[shard.device]
  return total


def signature(leaf: Any) -> str:
  """'float32[3,4]'."""
  return f'{np.dtype(leaf.dtype).name}[{",".join(map(str, leaf.shape))}]'


@functools.partial(jax.jit, static_argnums=1)
def _sums(leaf: jax.Array, placed: jax.sharding.Sharding) -> jax.Array:
  """uint32 (devices, 2): the sums over the part of the tensor that each device has."""
  strides = [math.prod(leaf.shape[axis + 1 :]) for axis in range(leaf.ndim)]
  if placed.memory_kind == 'pinned_host':
    leaf = jax.device_put(leaf, jax.memory.Space.Device)
  if not isinstance(placed, jax.sharding.NamedSharding):
    return _of_part(leaf, np.uint32(0), strides)

  def of_device(part: jax.Array) -> jax.Array:
    origin = jnp.uint32(0)
    for axis, names in enumerate(placed.spec):
      if names:
        first = lax.axis_index(names).astype(jnp.uint32) * np.uint32(part.shape[axis])
        origin += first * np.uint32(strides[axis] % 2**32)
    return _of_part(part, origin, strides)

  every_device = jax.sharding.PartitionSpec(placed.mesh.axis_names)
  return jax.shard_map(
    of_device, mesh=placed.mesh, in_specs=placed.spec, out_specs=every_device, check_vma=False
  )(leaf)


def _of_part(part: jax.Array, origin: Any, strides: Sequence[int]) -> jax.Array:
  """uint32 (1, 2): sums over a part of a tensor.

  Args:
    part: of it.
    origin: place of its first element in the tensor, counted in elements, uint32.
    strides: elements between neighbours in the tensor along each axis.
  """
  if part.dtype == jnp.bool_:
    bits = part.astype(jnp.uint32)
  else:
    bits = lax.bitcast_convert_type(part, UNSIGNED[part.dtype.itemsize]).astype(jnp.uint32)

  def constant(value):
    return lax.full(part.shape, value % 2**32, jnp.uint32)

  place = lax.full(part.shape, origin, jnp.uint32)
  for axis, stride in enumerate(strides):
    place += lax.broadcasted_iota(jnp.uint32, part.shape, axis) * constant(stride)
  # Odd factors, so that no changed bit is lost; scattered, so that no two places weigh the same.
  weight = (place * constant(2654435761) ^ (place >> constant(15))) | constant(1)
  folded = (bits ^ (bits >> constant(16))) * constant(0x7FEB352D)
  terms = bits * weight, folded * ((weight >> constant(7)) | constant(1))
  zero = np.uint32(0)
  sums = lax.reduce(
    terms, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(part.ndim))
  )
  return jnp.stack(sums)[None]


def seal(place: int | str, data: Any, digests: Mapping[str, str]) -> dict[str, Any]:
  """What is stored beside a tree: data, digests, and a hash of both and of the place.

  Args:
    place: which of several trees it is, such as its step: it is not stored.
    data: what JSON can hold.
    digests: of the tree, from `of_tree`.
  """
  content = {'data': data, 'digests': dict(digests)}
  return content | {'sha256': _hash(place, content)}


def unseal(place: int | str, sealed: Mapping[str, Any] | None) -> tuple[Any, dict[str, str] | None]:
  """(data, digests) of what `seal` made; digests are None if it is from before there were any.

  Raises:
    ValueError: it is not what was sealed at this place; says how.
  """
  fields = dict(sealed or {})
  if set(fields) <= {'data'}:
    return fields.get('data'), None
  if set(fields) != {'data', 'digests', 'sha256'}:
    raise ValueError(f'its metadata has the fields {sorted(fields)}')
  if fields.pop('sha256') != _hash(place, fields):
    raise ValueError('its metadata is not what was written there')
  return fields['data'], dict(fields['digests'])


def _hash(place: int | str, content: Mapping[str, Any]) -> str:
  text = json.dumps([place, content], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
