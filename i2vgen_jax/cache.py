"""Checks that a cache of latents and embeddings (precompute.py) was made by the run's networks."""

import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.stream import cache
from i2vgen_jax import checkpoint
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import xla_profiles


def check(session: session_lib.Session) -> None:
  """Raises ValueError if data.cache was made by other networks than the run's frozen ones."""
  folder = session.config.data.cache
  made_by = cache.read_manifest(folder)['identity']['networks']
  wanted = json.loads(json.dumps(networks(session)))
  there = {name: made_by[name] for name in wanted if name in made_by}
  if there != wanted:
    raise ValueError(
      f'data.cache={folder} was made by other networks than this config names: '
      f'{differences(there, wanted)}. Give the weights that it was made with, or '
      'precompute again.'
    )


def networks(session: session_lib.Session) -> dict[str, Any]:
  """What identifies the encoders: block of the config -> sizes, and a digest of the weights."""
  read = {'vae'} | {name for signal in session.signals.values() for name in signal.networks}
  weights = {name: session.frozen[name] for name in session.networks if name in read}
  # Hash the VAE's encoder only: another decoder must not invalidate the cache.
  weights['vae'] = {name: weights['vae'][name] for name in ('encoder', 'quant_conv')}
  digests = digest(weights)
  blocks = checkpoint.plain_config(session.config)
  return dict(dtype=session.config.dtype) | {
    name: dict(weights=digests[name], model=blocks[name]['model']) for name in digests
  }


def digest(trees: Mapping[str, Any]) -> dict[str, str]:
  """{name: parameters} -> {name: text}: equal only if every bit is equal, on any mesh."""

  def of_leaf(leaf: jax.Array) -> jax.Array:
    bits_N = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32).reshape(-1)
    place_N = jax.lax.iota(jnp.uint32, bits_N.size)
    # Integer sums do not depend on their order; the odd factor makes places differ.
    return jnp.sum(bits_N * (2 * place_N + 1) ^ (bits_N >> 16), dtype=jnp.uint32)

  sums = jax.device_get(xla_profiles.jit_once(lambda trees: jax.tree.map(of_leaf, trees))(trees))
  return {
    name: cache.fingerprint(
      {jax.tree_util.keystr(path): int(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    )
    for name, tree in sums.items()
  }


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
  """Text that names the fields in which two dicts differ, for error messages."""
  return '; '.join(
    f'{name}: {theirs.get(name)} there, {ours.get(name)} here'
    for name in sorted({*theirs, *ours})
    if theirs.get(name) != ours.get(name)
  )
