"""Runs the frozen networks over a run's corpora once, for training to read what they make.

  python -m i2vgen_jax.precompute --config=configs/demo.py --output=CACHE
  python -m i2vgen_jax.train --config=configs/demo.py --config.data.cache=CACHE --workdir=DIR

Worth it for several epochs at one size: the VAE's encoder is a sixth of a step (counted FLOPs).
What a cache freezes, and how large it is: data_pipelines/README.md. Shard by shard, so that what
was killed goes on when the command is given again. With --distributed the hosts of a job share the
shards; each encodes its own on its own devices, and `output` is a folder or bucket of all.
"""

import collections
import json
import time

import grain
import jax
import numpy as np
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from data_pipelines.corpus import jobs, reader, schema, storage
from data_pipelines.corpus import writer as writer_lib
from data_pipelines.index import table as table_lib
from data_pipelines.media import sandbox as sandbox_lib
from data_pipelines.media.frames import DecodeError
from data_pipelines.stream import cache as cache_lib
from i2vgen_jax import cache, components
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import cli, hosts
from i2vgen_jax.training import data

CAPTIONS_PER_STEP = 8
MAX_ROWS = 64  # That are held at a time.
DTYPES = ('float16', 'float32')
PARTS = '_precomputed'


def main():
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


def precompute(config, output, fps=0.0, max_frames=64, dtype='float16', num_threads=2):
  """Writes the cache of the training rows that the config's buckets take.

  Args:
    config: of a run.
    output: folder of the cache; nothing is done if it is there already.
    fps: frames per second that are kept; 0 for the most of the buckets.
    max_frames: that are kept of a video, from its start on.
    dtype: of what is kept. float16 rounds latents to 5e-4 of their value.
    num_threads: that decode, each in a child process.

  Returns:
    The manifest.

  Raises:
    ValueError: a config that cannot be, buckets that do not fit, or another cache in `output`.
  """
  built, corpora, table, identity = _open(config, fps, max_frames, dtype)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1}, jax.local_devices())
  frozen = components.frozen_params(config, built, mesh)
  identity['networks'] = cache.networks(config, frozen)
  output = epath.Path(output)
  if (output / 'manifest.json').exists():
    found = cache_lib.read_manifest(output)
    if found['identity'] != identity:
      raise ValueError(
        f'{output} holds another cache: {cache.differences(found["identity"], identity)}.'
      )
    return found
  shapes = _shapes(built, identity['sizes'])
  work = _ShardWork(_Encode(built, frozen, mesh), corpora, table, identity, shapes, num_threads)
  items = _items(corpora, identity['sizes'])
  parts = output / PARTS
  hosts.meet('all have looked for a cache')
  if hosts.is_lead():
    jobs.claim(parts, cache_lib.fingerprint(identity))
  hosts.meet('the folder of the parts is ready')
  host = jax.process_index(), jax.process_count()
  results = jobs.run(work, items, parts, num_processes=1, host=host)
  work.close()
  if hosts.is_lead():
    return _publish(output, items, results, parts, dict(identity=identity, shapes=shapes), dtype)
  while not (output / 'manifest.json').exists():  # Who leaves before the others ends their run.
    time.sleep(1.0)
  return cache_lib.read_manifest(output)


def plan(config, output, fps=0.0, max_frames=64, dtype='float16'):
  """What `precompute` would write, in a line; the weights are not looked at."""
  built, corpora, table, identity = _open(config, fps, max_frames, dtype)
  items = _items(corpora, identity['sizes'])
  num_done = sum(1 for _ in (epath.Path(output) / PARTS).glob(f'*/{jobs.MARKER}'))
  media = corpora.columns['media'][slice(None) if table.rows is None else table.rows]
  is_video = media == schema.MEDIA.index('video')
  counts = np.floor((table.columns['duration'] + 1e-3) * identity['fps']) + 1
  frames = np.where(is_video, np.minimum(counts, max_frames), 1)
  num_bytes = 0
  for size in identity['sizes']:
    [shapes] = _shapes(built, [size]).values()
    is_taken = np.isin(media, [schema.MEDIA.index(name) for name in size['media']])
    per_frame = sum(np.prod(shapes[name][1:]) for name in cache_lib.ARRAYS if name != 'text')
    values = per_frame * frames[is_taken].sum() + np.prod(shapes['text']) * is_taken.sum()
    num_bytes += values * np.dtype(dtype).itemsize
  return (
    f'{output}: {len(media):,} examples in {len(items)} shards, {num_done} of them done; about '
    f'{num_bytes / 1e9:.3f} GB at {identity["fps"]:g} frames per second; nothing was written'
  )


def _open(config, fps, max_frames, dtype):
  """(components, corpora, their table, what identifies a cache of them but for the networks)."""
  if dtype not in DTYPES:
    raise ValueError(f'dtype={dtype!r} should be one of {DTYPES}.')
  built = components.build(config)
  buckets = data.make_buckets(config, built)
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
  return built, corpora, table, identity


def _items(corpora, sizes):
  """The units of work."""
  return [
    (name, shard, size)
    for name, directory in corpora.directories.items()
    for shard in reader.read_manifest(directory)['splits']['train']['shards']
    for size in sizes
  ]


class _ShardWork:
  """((name of a corpus, shard, size), folder) -> records of the cache, one per record there."""

  def __init__(self, encode, corpora, table, identity, shapes, num_threads):
    self._encode = encode
    self._corpora = corpora
    self._table = table
    self._identity = identity
    self._shapes = shapes
    self._num_threads = num_threads
    self._decode = sandbox_lib.Sandbox(cache_lib.DecodeRow())
    self._place_of_row = np.full(len(corpora), -1)
    places = np.arange(len(corpora) if table.rows is None else len(table.rows))
    self._place_of_row[slice(None) if table.rows is None else table.rows] = places

  def __call__(self, item, folder):
    name, shard, size = item
    path = str(self._corpora.directories[name] / shard['records'])
    load = self._load(path, size)
    options = grain.ReadOptions(self._num_threads, 2 * self._num_threads)
    rows = grain.MapDataset.range(shard['num_examples']).map(load).to_iter_dataset(options)
    shapes = self._shapes[f'{size["width"]}x{size["height"]}']
    writer = writer_lib.RecordWriter(
      folder / 'records', cache_lib.features(shapes, self._identity['dtype'])
    )
    num_cached = 0
    for group in _groups(rows, self._encode.frames_per_step):
      for record in self._encode(group):
        num_cached += len(record['latent_mean']) > 0
        arrays = {key: record[key].astype(self._identity['dtype']) for key in cache_lib.ARRAYS}
        writer.write(record | arrays)
    counts = writer.close()
    return counts | dict(num_cached=num_cached)

  def close(self):
    self._decode.close()

  def _load(self, path, size):
    height, width, side = size['height'], size['width'], self._encode.side
    first_row = self._corpora.first_row(path)
    nothing = dict(
      key='', caption='', first_time=0.0,
      frames=np.empty((0, height, width, 3), np.uint8),
      squares=np.empty((0, side, side, 3), np.uint8),
    )  # fmt: skip

    def load(record):
      place = self._place_of_row[first_row + record]
      media = schema.MEDIA[self._corpora.columns['media'][first_row + record]]
      if place < 0 or media not in size['media']:
        return nothing
      times = []
      if media == 'video':
        first, duration = (self._table.columns[name][place] for name in ('first_time', 'duration'))
        rate = self._identity['fps'], self._identity['max_frames']
        times = cache_lib.frame_times(float(first), float(duration), *rate)
      try:
        found = self._decode(path, record, times, height, width, side)
      except DecodeError as error:
        logging.warning('%s, record %d cannot be decoded: %s', path, record, error)
        return nothing
      return found | dict(first_time=times[0] if times else 0.0)

    return load


def _groups(rows, num_frames):
  """Lists of rows that have num_frames frames or a few more; no row is cut."""
  group, count = [], 0
  for row in rows:
    group.append(row)
    count += len(row['frames'])
    if count >= num_frames or len(group) >= MAX_ROWS:
      yield group
      group, count = [], 0
  if group:
    yield group


class _Encode:
  """Rows with `frames` and `squares` -> rows with cache.ARRAYS.

  The networks always see as many frames and captions at once: another number would compile again.
  """

  def __init__(self, built, frozen, mesh):
    encoders = built.encoders
    self.side = encoders.image_encoder.image_size
    self.frames_per_step = encoders.frames_per_chunk * mesh.size
    self._tokenize, self._frozen, self._mesh = built.tokenize, frozen, mesh

    def encode_frames(frozen, batch):
      moments = encoders.moments(frozen, batch['frames'][:, None])
      return *(moment[:, 0] for moment in moments), encoders.encode_image(frozen, batch['squares'])

    whole = mesh_lib.replicated(mesh)
    self._encode_frames = jax.jit(encode_frames, out_shardings=whole)
    self._encode_text = jax.jit(encoders.encode_text, out_shardings=whole)

  def __call__(self, rows):
    batch = {name: np.concatenate([row[name] for row in rows]) for name in ('frames', 'squares')}
    images = _in_steps(self._frames, batch, self.frames_per_step)
    ids = dict(ids=self._tokenize([row['caption'] for row in rows]))
    [text_BLD] = _in_steps(self._texts, ids, CAPTIONS_PER_STEP)
    stops = np.cumsum([len(row['frames']) for row in rows])
    for row, stop, text in zip(rows, stops, text_BLD, strict=True):
      part = slice(stop - len(row['frames']), stop)
      arrays = dict(zip(cache_lib.ARRAYS, (*(image[part] for image in images), text), strict=True))
      yield {name: row[name] for name in ('key', 'caption', 'first_time')} | arrays

  def _frames(self, batch):
    return self._encode_frames(self._frozen, mesh_lib.place_batch(batch, self._mesh))

  def _texts(self, batch):
    return (self._encode_text(self._frozen, batch['ids']),)


def _in_steps(function, batch, size):
  """function of `size` rows at a time; the last ones are filled up with zeros, and cut again."""
  total = len(next(iter(batch.values())))
  results = []
  for start in range(0, max(total, 1), size):
    part = {name: values[start : start + size] for name, values in batch.items()}
    missing = size - len(next(iter(part.values())))
    part = {
      name: np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
      for name, values in part.items()
    }
    results.append(jax.device_get(function(part)))
  return [np.concatenate(arrays)[:total] for arrays in zip(*results, strict=True)]


def _sizes(buckets):
  media = collections.defaultdict(set)
  for bucket in buckets:
    media[bucket.height, bucket.width].add(bucket.media)
  return [
    dict(height=height, width=width, media=sorted(found))
    for (height, width), found in sorted(media.items())
  ]


def _shapes(built, sizes):
  """{size: shapes of cache.ARRAYS}; None is the number of frames."""
  encoders = built.encoders
  found = {}
  for size in sizes:
    height, width = (size[side] // encoders.downsampling for side in ('height', 'width'))
    moments = [None, height, width, encoders.vae.latent_channels]
    found[f'{size["width"]}x{size["height"]}'] = dict(
      latent_mean=moments,
      latent_logvar=moments,
      image_embedding=[None, encoders.image_encoder.projection_dim],
      text=[encoders.text_encoder.max_length, encoders.text_encoder.hidden_size],
    )
  return found


def _publish(output, items, results, parts, manifest, dtype):
  """Moves the shards to their places, writes the metadata of tfds and the manifest."""
  found = collections.defaultdict(list)
  for index, ((name, shard, size), result) in enumerate(zip(items, results, strict=True)):
    target = cache_lib.folder(output, name, size['height'], size['width'])
    source = jobs.part(parts, index) / 'records'
    if source.exists():  # Else it was moved before a kill.
      storage.move(source, target / shard['records'])
    found[target, f'{size["width"]}x{size["height"]}'].append(result)
  for (target, size), shards in found.items():
    features = cache_lib.features(manifest['shapes'][size], dtype)
    writer_lib.write_tfds_metadata(target, {'train': dict(shards=shards)}, features)
  manifest |= dict(
    version=cache_lib.VERSION,
    num_examples=sum(result['num_cached'] for result in results),
    num_bytes=sum(result['num_bytes'] for result in results),
  )
  storage.write_bytes(output / 'manifest.json', json.dumps(manifest, indent=2).encode())
  storage.remove_folder(parts)
  return manifest


if __name__ == '__main__':
  config_flags.DEFINE_config_file(
    'config', None, 'configs/<name>.py[:arg]; override with --config.a.b=value.', lock_config=True
  )
  flags.DEFINE_string('output', None, 'Folder of the cache.')
  flags.DEFINE_float('fps', 0.0, 'Frames per second that are kept; 0: the most of the buckets.')
  flags.DEFINE_integer('max_frames', 64, 'Of a video, from its start on.')
  flags.DEFINE_enum('dtype', 'float16', DTYPES, 'Of what is kept.')
  flags.DEFINE_bool('distributed', False, 'Share the shards with the other hosts of this job.')
  flags.DEFINE_bool('dry_run', False, 'Only say what would be done; nothing is written.')
  cli.require('config', 'output')
  cli.run(main)
