"""A cache of what the frozen networks make of a corpus: latents and embeddings in place of media.

  CACHE/manifest.json                 what made it and of what; written last
  CACHE/CORPUS/WIDTHxHEIGHT/          in tfds layout, with the shards of the corpus: record i is of
                                      its record i, and empty if no bucket of that size takes it

It holds the VAE's moments, so that training draws new latents at each step. It freezes what a
decoder could still vary: a video is there at `fps` frames per second, so windows start at those
frames only, and but its first `max_frames`; size and centre crop are those of the bucket, which the
stream does not vary anyway.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.index import table as table_lib
from data_pipelines.media import decode
from data_pipelines.media.frames import DecodeError
from data_pipelines.stream import decoder

VERSION = 1
ARRAYS = ('latent_mean', 'latent_logvar', 'image_embedding', 'text')


def features(shapes: Mapping[str, Sequence[int | None]], dtype: str):
  """The record as tfds features; shapes of ARRAYS, of which the first three are per frame."""
  import tensorflow_datasets as tfds

  tensors = {
    name: tfds.features.Tensor(
      shape=tuple(shapes[name]), dtype=np.dtype(dtype), encoding=tfds.features.Encoding.BYTES
    )
    for name in ARRAYS
  }
  start = tfds.features.Tensor(shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES)
  text = tfds.features.Text()
  return tfds.features.FeaturesDict(dict(key=text, caption=text, first_time=start) | tensors)


def folder(directory: epath.Path, name: str, height: int, width: int) -> epath.Path:
  """Of the records of one corpus at one size."""
  return epath.Path(directory) / name / f'{width}x{height}'


def frame_times(first_time: float, duration: float, fps: float, max_frames: int) -> list[float]:
  """Presentation times of the frames that are kept of a video, seconds."""
  count = min(max_frames, int((duration + 1e-3) * fps) + 1)
  return [first_time + k / fps for k in range(count)]


def check_buckets(buckets: Sequence[buckets_lib.Bucket], fps: float, max_frames: int) -> None:
  """Raises ValueError for a bucket that cannot be drawn from such a cache."""
  for bucket in buckets:
    if bucket.media == 'image':
      continue
    if (fps / bucket.fps) % 1:
      raise ValueError(
        f'bucket {bucket.name!r} wants {bucket.fps:g} frames per second, which does not divide the '
        f"cache's fps={fps:g}: precompute with --fps=a common multiple of all buckets'."
      )
    if bucket.span > (max_frames - 1) / fps:
      raise ValueError(
        f'bucket {bucket.name!r} spans {bucket.span:.2f} s, and the cache has max_frames='
        f'{max_frames} at fps={fps:g} of a video: precompute with a larger --max_frames.'
      )


def read_manifest(directory: str) -> dict:
  """The manifest of a whole cache; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  if not path.exists():
    raise ValueError(
      f'data.cache={directory} holds no cache (no manifest.json). Make one: '
      f'python -m i2vgen_jax.precompute --config=... --output={directory}'
    )
  manifest = json.loads(path.read_text())
  if manifest['version'] != VERSION:
    raise ValueError(
      f'{path} is of version {manifest["version"]}, not {VERSION}: precompute it again.'
    )
  return manifest


def fingerprint(identity: Mapping) -> str:
  """Short digest of what made a cache."""
  return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class DecodeRow:
  """What is encoded of one record; to be called in a child process."""

  def __init__(self):
    self._records = None

  def __call__(self, shard, record, times, height, width, side):
    """key, caption, frames uint8 (F, height, width, 3) and squares uint8 (F, side, side, 3).

    Args:
      shard, record: where it is.
      times: of the frames; [] for an image.
      height, width, side: as training takes them.
    Raises:
      DecodeError: it cannot be decoded.
    """
    if self._records is None:  # Only there: open files are not to be pickled.
      self._records = reader.Records()
    found = self._records.read(shard, record)
    num_frames = len(times) or 1
    frames_FHWC = np.empty((num_frames, height, width, 3), np.uint8)
    squares_FSSC = np.empty((num_frames, side, side, 3), np.uint8)
    if times:
      decode.decode_video_into(frames_FHWC, squares_FSSC, found['data'], times)
    else:
      decoder.fill_image(frames_FHWC[0], squares_FSSC[0], found['data'])
    return dict(
      key=found['key'], caption=found['caption'], frames=frames_FHWC, squares=squares_FSSC
    )


class Reader:
  """As decoder.Decoder, from a cache: fills moments and embeddings instead of pixels.

  Args:
    directory: of the cache.
    corpora, table: that are streamed.
    buckets: that are drawn.

  Attributes:
    max_duration: seconds of a video that the cache has.
    fingerprint: of the cache.

  Raises:
    ValueError: no cache, or one of other corpora, another index or other sizes.
  """

  def __init__(
    self,
    directory: str,
    corpora: reader.Corpora,
    table: table_lib.Table,
    buckets: Sequence[buckets_lib.Bucket],
  ):
    manifest = read_manifest(directory)
    identity = manifest['identity']
    self.fingerprint = fingerprint(identity)
    self._check_source(directory, identity, corpora, table)
    sizes = {(size['height'], size['width']): set(size['media']) for size in identity['sizes']}
    for bucket in buckets:
      if bucket.media not in sizes.get((bucket.height, bucket.width), ()):
        raise ValueError(
          f'bucket {bucket.name!r}: the cache {directory} has no {bucket.media}s of {bucket.width}x'
          f'{bucket.height}, only {[f"{w}x{h}" for h, w in sizes]}: precompute with these buckets.'
        )
    self._fps = identity['fps']
    check_buckets(buckets, self._fps, identity['max_frames'])
    self.max_duration = (identity['max_frames'] - 1) / self._fps
    self._dtype = np.dtype(identity['dtype'])
    self._shapes = {size: manifest['shapes'][f'{size[1]}x{size[0]}'] for size in sizes}
    self._folders = {}
    for name, path in corpora.directories.items():
      for size in sizes:
        self._folders[str(path), size] = folder(directory, name, *size)
    self._records = reader.Records(('key', 'caption'), ('first_time', *ARRAYS))

  @staticmethod
  def _check_source(directory, identity, corpora, table):
    opened = dict(zip(corpora.names, corpora.fingerprints, strict=True))
    if identity['corpora'] != opened or identity['table'] != table.fingerprint:
      raise ValueError(
        f'the cache {directory} is of the corpora {identity["corpora"]} with index '
        f'{identity["table"]}, but data.directories are {opened} with index {table.fingerprint}: '
        'give the same data.directories and data.index, or precompute again.'
      )

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
    """The arrays of a batch: moments (b, F, h, w, C), image_embedding (b, V) of the first frame,
    text (b, L, D)."""
    batch = _Batch((bucket.height, bucket.width))
    for name in ARRAYS:
      shape = self._shapes[batch.size][name]  # Of all but the text, the first is the frame.
      inner = shape if name == 'text' else shape[1:]
      frames = (bucket.frames,) if name.startswith('latent') else ()
      batch[name] = np.empty((batch_size, *frames, *inner), self._dtype)
    return batch

  def fill(
    self, batch: dict, requests: Mapping[int, decoder.Request]
  ) -> Iterator[tuple[int, decoder.Decoded]]:
    """As decoder.Decoder.fill."""
    for row, request in requests.items():
      shard = epath.Path(request.shard)
      path = self._folders[str(shard.parent), batch.size] / shard.name
      key = ''
      try:
        record = self._records.read(str(path), request.record)
        key = record['key']
        self._take(batch, row, record, request.times)
      except DecodeError as error:
        yield row, decoder.Decoded(key, error=str(error))
        continue
      yield row, decoder.Decoded(key, record['caption'])

  def _take(self, batch, row, record, times):
    arrays = {
      name: np.frombuffer(record[name], self._dtype).reshape(
        [-1 if size is None else size for size in self._shapes[batch.size][name]]
      )
      for name in ARRAYS
    }
    num_frames = len(arrays['latent_mean'])
    chosen = np.zeros(1, int)
    if times:
      [first_time] = np.frombuffer(record['first_time'], np.float64)
      chosen = np.rint((np.array(times) - times[0]) * self._fps).astype(int)
      first = round((times[0] - first_time) * self._fps)
      chosen += min(max(first, 0), num_frames - 1 - chosen[-1])
    if not num_frames or chosen[0] < 0:
      raise DecodeError('cache', 'it could not be decoded when the cache was made.')
    batch['latent_mean'][row] = arrays['latent_mean'][chosen]
    batch['latent_logvar'][row] = arrays['latent_logvar'][chosen]
    batch['image_embedding'][row] = arrays['image_embedding'][chosen[0]]
    batch['text'][row] = arrays['text']

  def cpu_secs(self) -> float:
    """Of other processes: none."""
    return 0.0

  def open(self) -> None:
    """Nothing to start."""

  def close(self) -> None:
    """Nothing to end."""


class _Batch(dict):
  """Arrays by name, and the (height, width) in pixels that they stand for."""

  def __init__(self, size):
    super().__init__()
    self.size = size
