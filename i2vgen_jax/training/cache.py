"""What the frozen networks make of a corpus once, for training to read in place of media: how it is
made, and whether it was made by the networks that a run names.

data_pipelines/stream/cache.py has the files.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.stream import cache
from data_pipelines.stream import fields as fields_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import padding, xla_profiles
from i2vgen_jax.stored import run_config

CAPTIONS_PER_STEP = 8


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
  blocks = run_config.plain(session.config)
  return dict(dtype=session.config.dtype) | {
    name: dict(weights=digests[name], model=blocks[name]['model']) for name in weights
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


class Encode:
  """Rows with the pixels of all their frames -> rows with the kept arrays.

  The networks always see the same number of frames and of captions: another would compile again.

  Attributes:
    pixels: the fields that are decoded.
    frames_per_step: how many frames they see at once.
  """

  def __init__(self, session: session_lib.Session):
    self._session = session
    self.pixels = fields_lib.pixel_fields(session.fields())
    self.frames_per_step = session.autoencoder.frames_per_chunk * session.mesh.size
    of_frames = {name: signal for name, signal in session.signals.items() if signal.cached}
    of_records = {name: signal for name, signal in session.signals.items() if signal.cached == ''}
    self._of_captions = [
      field
      for signal in of_records.values()
      for field in signal.fields()
      if isinstance(field, fields_lib.RowField)
    ]

    def encode_frames(frozen, batch):
      mean_BFHWC, logvar_BFHWC = session.autoencoder.moments(frozen, batch['video'])
      latents = dict(latent_mean=mean_BFHWC[:, 0], latent_logvar=logvar_BFHWC[:, 0])
      return latents | encode(of_frames, frozen, batch)

    def encode(signals, frozen, batch):
      return {
        name: signal.encode(frozen, signal.of_batch(batch)) for name, signal in signals.items()
      }

    whole = mesh_lib.replicated(session.mesh)
    self._encode_frames = jax.jit(encode_frames, out_shardings=whole)
    self._encode_records = jax.jit(functools.partial(encode, of_records), out_shardings=whole)

  def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of cache.DecodeRow -> records of the cache, in their order."""
    counts = [len(row['video']) for row in rows]
    frames = {
      field.name: np.concatenate([row[field.name] for row in rows]) for field in self.pixels
    }
    frames['video'] = frames['video'][:, None]  # Each a clip of one frame.
    frozen, mesh = self._session.frozen, self._session.mesh
    of_frames = _in_steps(
      lambda batch: self._encode_frames(frozen, mesh_lib.place_batch(batch, mesh)),
      frames,
      self.frames_per_step,
    )
    bucket: Any = None  # What a record keeps once is made of its caption alone.
    captions = fields_lib.Rows(bucket, [row['caption'] for row in rows], range(len(rows)))
    tokens = {field.name: field.of_rows(captions) for field in self._of_captions}
    encode_records = functools.partial(self._encode_records, frozen)
    of_records = _in_steps(encode_records, tokens, CAPTIONS_PER_STEP) if tokens else {}
    stops = np.cumsum(counts)
    for i, (row, stop) in enumerate(zip(rows, stops, strict=True)):
      part = slice(stop - counts[i], stop)
      yield (
        {name: row[name] for name in ('key', 'caption', 'first_time')}
        | {name: values[part] for name, values in of_frames.items()}
        | {name: values[i] for name, values in of_records.items()}
      )


def _in_steps(
  function: Callable[[dict[str, np.ndarray]], Any], batch: Mapping[str, np.ndarray], size: int
) -> dict[str, np.ndarray]:
  """Calls the function with `size` rows at a time and joins what it returns for each row."""
  total = len(next(iter(batch.values())))
  if not total:  # A row of zeros tells which arrays the function returns.
    batch = {name: np.zeros((1, *rows.shape[1:]), rows.dtype) for name, rows in batch.items()}
  results = [
    jax.device_get(function({name: values[rows] for name, values in batch.items()}))
    for rows, _ in padding.steps_of_rows(max(total, 1), size)
  ]
  return {name: np.concatenate([result[name] for result in results])[:total] for name in results[0]}
