"""Is a cache of latents and embeddings (precompute.py) of the networks that a run names?"""

import json

import jax
import jax.numpy as jnp

from data_pipelines.stream import cache
from i2vgen_jax import components


def check(config, frozen):
  """Raises ValueError if data.cache was made by other networks than the run's frozen ones."""
  identity = cache.read_manifest(config.data.cache)['identity']
  wanted = json.loads(json.dumps(networks(config, frozen)))
  if identity['networks'] != wanted:
    raise ValueError(
      f'data.cache={config.data.cache} was made by other networks than this config names: '
      f'{differences(identity["networks"], wanted)}. Give the weights that it was made with, or '
      'precompute again.'
    )


def networks(config, frozen):
  """What identifies the encoders: block of the config -> sizes, and a digest of the weights."""
  digests = digest(
    {
      # Of the VAE what encodes: its decoders are often exchanged.
      'vae': {name: frozen['vae'][name] for name in ('encoder', 'quant_conv')},
      'text_encoder': frozen['text_encoder'],
      'image_encoder': frozen['image_encoder'],
    }
  )
  blocks = json.loads(config.to_json())
  return dict(dtype=config.dtype) | {
    name: dict(weights=digests[name], model=blocks[name]['model']) for name in components.FROZEN
  }


def digest(trees):
  """{name: parameters} -> {name: text}: equal only if every bit is, on any mesh."""

  def of_leaf(leaf):
    bits_N = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32).reshape(-1)
    place_N = jax.lax.iota(jnp.uint32, bits_N.size)
    # Integer sums do not depend on their order; the odd factor makes places differ.
    return jnp.sum(bits_N * (2 * place_N + 1) ^ (bits_N >> 16), dtype=jnp.uint32)

  sums = jax.device_get(components.jit_once(lambda trees: jax.tree.map(of_leaf, trees))(trees))
  return {
    name: cache.fingerprint(
      {jax.tree_util.keystr(path): int(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
    )
    for name, tree in sums.items()
  }


def differences(theirs, ours):
  """The fields in which two dicts differ, for people."""
  return '; '.join(
    f'{name}: {theirs.get(name)} there, {ours.get(name)} here'
    for name in sorted({*theirs, *ours})
    if theirs.get(name) != ours.get(name)
  )
