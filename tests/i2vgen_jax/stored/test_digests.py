"""Digests of arrays: the same on every mesh, another one for every change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.stored import digests

P = jax.sharding.PartitionSpec


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'int8', 'bool', 'uint32'])
def test_a_digest_is_the_same_on_every_mesh(dtype):
  values = np.random.default_rng(0).integers(0, 2, (16, 8, 24)).astype(jnp.dtype(dtype))
  mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
  specs = (P(), P('fsdp'), P(None, 'tensor', 'fsdp'), P(('data', 'fsdp', 'tensor')))
  placed = [jax.device_put(values, jax.sharding.NamedSharding(mesh, spec)) for spec in specs]
  found = {digests.of_tree({'x': leaf})['x'] for leaf in [jnp.asarray(values), *placed]}
  assert len(found) == 1 and found.pop().startswith(f'{dtype}[16,8,24] ')


def test_any_changed_bit_and_any_change_of_order_changes_the_digest():
  draw = np.random.default_rng(1)
  values = draw.standard_normal((24, 40), np.float32)
  changed = [values]
  for bit in draw.choice(32 * values.size, 100, replace=False):
    flipped = values.copy()
    flipped.view(np.uint32).reshape(-1)[bit // 32] ^= np.uint32(1 << (bit % 32))
    changed.append(flipped)
  changed += [values[::-1], values[:, ::-1], np.roll(values, 1), -values, np.zeros_like(values)]
  found = {digests.of_tree({'x': leaf})['x'] for leaf in map(jnp.asarray, changed)}
  assert len(found) == len(changed)


def test_what_is_sealed_opens_at_its_place_alone_and_unchanged():
  sealed = digests.seal(3, {'step': 3}, {'x': 'int32[] 00'})
  assert digests.unseal(3, sealed) == ({'step': 3}, {'x': 'int32[] 00'})
  others = [sealed | {'data': {'stop': 3}}, sealed | {'digests': {}}, sealed | {'sha256': '0'}]
  others += [{'data': {'step': 3}, 'digest': {}, 'sha256': ''}, sealed | {'more': 1}]
  for place, other in [(2, sealed), *((3, other) for other in others)]:
    with pytest.raises(ValueError, match='its metadata'):
      digests.unseal(place, other)
  assert digests.unseal(3, {'data': {'step': 3}}) == ({'step': 3}, None)  # Of an earlier version.
