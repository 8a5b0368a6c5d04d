"""Runs the frozen networks over a run's corpora once, for training to read what they make.

  python -m i2vgen_jax.precompute --config=configs/demo.py --output=CACHE
  python -m i2vgen_jax.train --config=configs/demo.py --config.data.cache=CACHE --workdir=DIR

Worth it for several epochs at one size: the VAE's encoder is a sixth of a step (counted FLOPs).
data_pipelines/README.md says what a cache freezes and how large it is. It is made shard by shard: a
command that was killed goes on when it is given again. With --distributed the hosts of a job share
the shards; each encodes its own on its own devices, and all write to the same folder or bucket
`output`.
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('output', None, 'Folder to write the cache to.')
  flags.DEFINE_float(
    'fps', 0.0, 'Frames per second to keep; 0 for the highest rate of the buckets.'
  )
  flags.DEFINE_integer('max_frames', 64, 'Frames to keep of a video, from its start on.')
  dtypes = tables.names('i2vgen_jax/precompute.py', 'DTYPES')
  flags.DEFINE_enum('dtype', 'float16', dtypes, 'Type of the arrays that are kept.')
  flags.DEFINE_bool('distributed', False, 'Share the shards with the other hosts of this job.')
  flags.DEFINE_bool('dry_run', False, 'Only say what would be done; write nothing.')
  flags.mark_flags_as_required(['config', 'output'])
  cli.run(__file__)

import collections
import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import jobs, reader, schema, storage
from data_pipelines.corpus import writer as writer_lib
from data_pipelines.index import table as table_lib
from data_pipelines.media import failures
from data_pipelines.media import sandbox as sandbox_lib
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import slots
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import frozen
from i2vgen_jax.process import hosts, output_folder
from i2vgen_jax.training import cache

MAX_ROWS = 64  # Decoded rows held in memory at once.
DTYPES = ('float16', 'float32')
PARTS = '_precomputed'


def main() -> None:
  """Entry point."""
  given = flags.FLAGS
  if given.distributed:
    hosts.join()
  if given.dry_run:
    print(plan(given.config, given.output, given.fps, given.max_frames, given.dtype))
    return
  made = precompute(given.config, given.output, given.fps, given.max_frames, given.dtype)
  print(
    f'{given.output}: {made["num_examples"]:,} examples, {made["num_bytes"] / 1e9:.2f} GB; '
    f'train with --config.data.cache={given.output}'
  )


def precompute(
  config: ml_collections.ConfigDict,
  output: epath.PathLike,
  fps: float = 0.0,
  max_frames: int = 64,
  dtype: str = 'float16',
  num_threads: int = 2,
) -> dict[str, Any]:
  """Writes the cache of the training rows that the config's buckets take.

  Args:
    config: of a run.
    output: folder of the cache; nothing is done if it is there already.
    fps: frames per second to keep; 0 for the highest rate of the buckets.
    max_frames: how many frames of a video to keep, from its start on.
    dtype: of the arrays kept. float16 rounds latents to 5e-4 of their value.
    num_threads: how many threads decode, each in a child process.

  Returns:
    The manifest.

  Raises:
    ValueError: the config is invalid, its buckets do not fit, or `output` holds another cache.
  """
  output_folder.check_writable(output)
  session, corpora, table, identity = _open(config, fps, max_frames, dtype)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1}, jax.local_devices())
  session = session.on(mesh)
  session = dataclasses.replace(session, frozen=frozen.load(config, session.networks, mesh))
  identity['networks'] = cache.networks(session)
  output = epath.Path(output)
  if (output / 'manifest.json').exists():
    found = cache_lib.read_manifest(output)
    if found['identity'] != identity:
      raise ValueError(
        f'{output} holds another cache: {cache.differences(found["identity"], identity)}.'
      )
    return found
  shapes = _shapes(session, identity['sizes'])
  work = _ShardWork(cache.Encode(session), corpora, table, identity, shapes, num_threads)
  items = _items(corpora, identity['sizes'])
  parts = output / PARTS
  hosts.meet('all have looked for a cache')
  with contextlib.ExitStack() as stack:
    if hosts.is_lead():
      identifier = cache_lib.fingerprint(identity)
      stack.enter_context(jobs.claimed(parts, identifier, kept=False))
    hosts.meet('the folder of the parts is ready')
    host = jax.process_index(), jax.process_count()
    results = jobs.run(work, items, parts, num_processes=1, host=host)
    work.close()
    if hosts.is_lead():
      failed = jobs.failures_of(results, parts)
      if failed:
        logging.warning(failures.sentence(failed, 'decoded'))
      return _publish(output, items, results, parts, dict(identity=identity, shapes=shapes), dtype)
  while not (output / 'manifest.json').exists():  # Who leaves before the others ends their run.
    time.sleep(1.0)
  return cache_lib.read_manifest(output)


def plan(
  config: ml_collections.ConfigDict,
  output: epath.PathLike,
  fps: float = 0.0,
  max_frames: int = 64,
  dtype: str = 'float16',
) -> str:
  """A line on what `precompute` would write; it does not look at the weights.

  Args:
    config: as of `precompute`, like all others.
    output: folder of the cache, which may be done in part.
    fps: frames per second to keep; 0 for the highest rate of the buckets.
    max_frames: how many frames of a video to keep.
    dtype: of the arrays kept.

  Raises:
    ValueError: the config is invalid, or its buckets do not fit.
  """
  session, corpora, table, identity = _open(config, fps, max_frames, dtype)
  items = _items(corpora, identity['sizes'])
  num_done = sum(1 for _ in (epath.Path(output) / PARTS).glob(f'*/{jobs.MARKER}'))
  media = corpora.columns['media'][slice(None) if table.rows is None else table.rows]
  is_video = media == schema.MEDIA.index('video')
  counts = np.floor((table.columns['duration'] + 1e-3) * identity['fps']) + 1
  frames = np.where(is_video, np.minimum(counts, max_frames), 1)
  num_bytes = 0
  for size in identity['sizes']:
    kept = session.kept(size['height'], size['width'])
    is_taken = np.isin(media, [schema.MEDIA.index(name) for name in size['media']])
    by_size = cache_lib.taken(table, size)
    is_taken &= True if by_size is None else by_size
    per_frame = sum(math.prod(array.shape) for array in kept if array.frames)
    per_record = sum(math.prod(array.shape) for array in kept if not array.frames)
    values = per_frame * frames[is_taken].sum() + per_record * is_taken.sum()
    num_bytes += values * np.dtype(dtype).itemsize
  return (
    f'{output}: {len(media):,} examples in {len(items)} shards, {num_done} of them done; about '
    f'{num_bytes / 1e9:.3f} GB at {identity["fps"]:g} frames per second; nothing was written'
  )


def _open(
  config: ml_collections.ConfigDict, fps: float, max_frames: int, dtype: str
) -> tuple[session_lib.Session, reader.Corpora, table_lib.Table, dict[str, Any]]:
  """(session, corpora, their table, what identifies a cache of them but for the networks)."""
  if dtype not in DTYPES:
    raise ValueError(f'dtype={dtype!r} should be one of {DTYPES}.')
  session = session_lib.build(config)
  buckets = session.buckets()
  fps = fps or max(bucket.fps for bucket in buckets)
  cache_lib.check_buckets(buckets, fps, max_frames)
  corpora = reader.Corpora(dict(config.data.directories), 'train')
  table = (
    table_lib.read(config.data.index, corpora) if config.data.index else table_lib.whole(corpora)
  )
  identity = dict(
    corpora=dict(zip(corpora.names, corpora.fingerprints, strict=True)),
    table=table.fingerprint,
    sizes=_sizes(buckets),
    fps=fps,
    max_frames=max_frames,
    dtype=dtype,
  )
  return session, corpora, table, identity


def _items(corpora: reader.Corpora, sizes: Sequence[dict]) -> list[tuple[str, dict, dict]]:
  """The units of work: (name of a corpus, shard, size)."""
  return [
    (name, shard, size)
    for name, directory in corpora.directories.items()
    for shard in reader.read_manifest(directory)['splits']['train']['shards']
    for size in sizes
  ]


class _ShardWork:
  """((name of a corpus, shard, size), folder) -> records of the cache (slots.py)."""

  def __init__(
    self,
    encode: 'cache.Encode',
    corpora: reader.Corpora,
    table: table_lib.Table,
    identity: Mapping[str, Any],
    shapes: Mapping[str, Mapping[str, list]],
    num_threads: int,
  ):
    self._encode = encode
    self._corpora = corpora
    self._table = table
    self._identity = identity
    self._shapes = shapes
    self._num_threads = num_threads
    self._decode = sandbox_lib.Sandbox(cache_lib.DecodeRow(encode.pixels))
    self._slots = slots.Slots(corpora, table)

  def __call__(self, item: tuple[str, dict, dict], folder: pathlib.Path) -> dict[str, Any]:
    name, shard, size = item
    path = str(self._corpora.directories[name] / shard['records'])
    places = self._slots.places(path)
    load = self._load(path, size, places)
    options = grain.ReadOptions(self._num_threads, 2 * self._num_threads)
    rows = grain.MapDataset.range(len(places)).map(load).to_iter_dataset(options)
    shapes = self._shapes[f'{size["width"]}x{size["height"]}']
    writer = writer_lib.RecordWriter(
      folder / 'records', cache_lib.features(shapes, self._identity['dtype'])
    )
    num_cached, failed, example = 0, collections.Counter(), ''
    for group in _groups(rows, self._encode.frames_per_step):
      lost = [row['lost'] for row in group if 'lost' in row]
      failed.update(error.reason for error in lost)
      example = str(lost[0]) if lost else example
      for record in self._encode(group):
        num_cached += len(record['latent_mean']) > 0
        arrays = {key: record[key].astype(self._identity['dtype']) for key in shapes}
        writer.write(record | arrays)
    counts = writer.close()
    return counts | dict(num_cached=num_cached, failed=failed, example=example)

  def close(self) -> None:
    self._decode.close()

  def _load(
    self, path: str, size: Mapping[str, Any], places: np.ndarray
  ) -> Callable[[int], dict[str, Any]]:
    height, width = size['height'], size['width']
    taken = cache_lib.taken(self._table, size)
    first_row = self._corpora.rows_of(path).start
    empty = cache_lib.frame_shapes(self._encode.pixels, height, width)
    nothing = dict(key='', caption='', first_time=0.0) | {
      name: np.empty((0, *shape), np.uint8) for name, shape in empty.items()
    }

    def load(slot):
      place = places[slot]
      if place < 0 or not (taken is None or taken[place]):
        return nothing
      row = self._table.row(place)
      media = schema.MEDIA[self._corpora.columns['media'][row]]
      if media not in size['media']:
        return nothing
      times = []
      if media == 'video':
        first, duration = (self._table.columns[name][place] for name in ('first_time', 'duration'))
        rate = self._identity['fps'], self._identity['max_frames']
        times = cache_lib.frame_times(float(first), float(duration), *rate)
      try:
        content = self._table.content(place)
        found = self._decode(path, row - first_row, times, height, width, content)
      except Exception as error:  # One example never ends a command.
        lost = failures.of(error)
        logging.warning('%s, record %d cannot be decoded: %s', path, row - first_row, lost)
        return nothing | dict(lost=lost)
      return found | dict(first_time=times[0] if times else 0.0)

    return load


def _groups(rows: Iterable[dict], num_frames: int) -> Iterator[list[dict]]:
  """Lists of whole rows that have num_frames frames or a few more together; MAX_ROWS at most."""
  group, count = [], 0
  for row in rows:
    group.append(row)
    count += len(row['video'])
    if count >= num_frames or len(group) >= MAX_ROWS:
      yield group
      group, count = [], 0
  if group:
    yield group


def _sizes(buckets: Sequence[buckets_lib.Bucket]) -> list[dict[str, Any]]:
  by_size = collections.defaultdict(list)
  for bucket in buckets:
    by_size[bucket.size].append(bucket)
  return [cache_lib.size_of(found) for _, found in sorted(by_size.items())]


def _shapes(session: session_lib.Session, sizes: Sequence[dict]) -> dict[str, dict[str, list]]:
  """{size: {array: its shape in a record}}; None is the number of frames."""
  return {
    f'{size["width"]}x{size["height"]}': {
      array.name: array.in_record() for array in session.kept(size['height'], size['width'])
    }
    for size in sizes
  }


def _publish(
  output: epath.Path,
  items: Sequence[tuple[str, dict, dict]],
  results: Sequence[dict[str, Any]],
  parts: epath.Path,
  manifest: dict[str, Any],
  dtype: str,
) -> dict[str, Any]:
  """Moves the shards to their places; writes tfds's metadata and the manifest, which it returns."""
  found, template = collections.defaultdict(list), schema.FILE_TEMPLATE
  for index, ((name, shard, size), result) in enumerate(zip(items, results, strict=True)):
    target = cache_lib.folder(output, name, size['height'], size['width'])
    if '-of-' in shard['records']:
      template = schema.OLDER_FILE_TEMPLATE
    source = jobs.part(parts, index) / 'records'
    if source.exists():  # Else it was moved before a kill.
      storage.move(source, target / shard['records'])
    found[target, f'{size["width"]}x{size["height"]}'].append(result)
  for (target, size), shards in found.items():
    features = cache_lib.features(manifest['shapes'][size], dtype)
    writer_lib.write_tfds_metadata(target, {'train': dict(shards=shards)}, features, template)
  manifest |= dict(
    version=cache_lib.VERSION,
    num_examples=sum(result['num_cached'] for result in results),
    num_bytes=sum(result['num_bytes'] for result in results),
  )
  storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  return manifest
