"""Digests of arrays: two sums per tensor, the same on every mesh, computed where the tensor lies.

An element's bits are weighed by its place in the tensor and added up modulo 2^32. Such sums may be
taken in any order, so each device adds its own part. A changed element always changes the first
sum; what changes several is missed once in 2^64.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from i2vgen_jax.parallel import sharding

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def of_tree(tree: Any) -> dict[str, str]:
  """Path -> 'float32[3,4] 16 hex digits'; all hosts call it together.

  Where copies of a tensor on this host's devices differ, all of their digests stand there.

  Args:
    tree: arrays of at most 4 bytes per element.
  """
  leaves = sharding.by_path(tree)
  sums = {name: _sums(leaf) for name, leaf in leaves.items()}
  for pair in sums.values():
    for total in pair:
      total.copy_to_host_async()
  return {name: f'{signature(leaves[name])} {_hex(pair)}' for name, pair in sums.items()}


def signature(leaf: Any) -> str:
  """'float32[3,4]'."""
  return f'{np.dtype(leaf.dtype).name}[{",".join(map(str, leaf.shape))}]'


def _hex(pair: tuple[jax.Array, jax.Array]) -> str:
  shards = [[shard.data for shard in total.addressable_shards] for total in pair]
  copies = {f'{int(first):08x}{int(second):08x}' for first, second in zip(*shards, strict=True)}
  return ' or '.join(sorted(copies))


@jax.jit
def _sums(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Scalars: each host has them."""
  if leaf.dtype == jnp.bool_:
    bits = leaf.astype(jnp.uint32)
  else:
    bits = lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)

  def constant(value):
    return lax.full(leaf.shape, value % 2**32, jnp.uint32)

  place, stride = constant(0), 1
  for axis in reversed(range(leaf.ndim)):
    place += lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * constant(stride)
    stride *= leaf.shape[axis]
  # Odd factors, so that no changed bit is lost; scattered, so that no two places weigh the same.
  weight = (place * constant(2654435761) ^ (place >> constant(15))) | constant(1)
  folded = (bits ^ (bits >> constant(16))) * constant(0x7FEB352D)
  terms = bits * weight, folded * ((weight >> constant(7)) | constant(1))
  zero = np.uint32(0)
  return lax.reduce(
    terms, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), tuple(range(leaf.ndim))
  )


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
