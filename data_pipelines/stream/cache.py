"""A cache of what the frozen networks make of a corpus: latents and embeddings in place of media.

  CACHE/manifest.json                 what made it and of what; written last
  CACHE/CORPUS/WIDTHxHEIGHT/          in tfds layout, with the shards of the corpus: record i is of
                                      its record i, and empty if no bucket of that size takes it,
                                      as those of other aspects; further shots follow (slots.py)

It holds the VAE's moments, so that training draws new latents at each step. It freezes what a
decoder could still vary: a video is there at `fps` frames per second, so windows start at those
frames only, and but its first `max_frames`; size and centre crop are those of the bucket, which the
stream does not vary anyway.
"""

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from etils import epath

from data_pipelines.corpus import aspects, reader
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.index import table as table_lib
from data_pipelines.media import decode
from data_pipelines.media.errors import DecodeError
from data_pipelines.stream import decoder, slots
from data_pipelines.stream import fields as fields_lib

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Kept:
  """An array of a record of the cache.

  Attributes:
    name: of it, there and in a batch.
    shape: of the array, of one frame if it has one for each.
    frames: which of the drawn frames a batch gets: 'all', 'first' or 'last'; '' is an array that a
      record has once.
  """

  name: str
  shape: tuple[int, ...]
  frames: str = ''

  def in_record(self) -> list[int | None]:
    """The shape in a record; None is the number of frames."""
    return [*([None] if self.frames else []), *self.shape]


def features(
  shapes: Mapping[str, Sequence[int | None]], dtype: str
) -> 'tfds.features.FeaturesDict':
  """The record as tfds features; shapes as of Kept.in_record."""
  import tensorflow_datasets as tfds

  tensors = {
    name: tfds.features.Tensor(
      shape=tuple(shapes[name]), dtype=np.dtype(dtype), encoding=tfds.features.Encoding.BYTES
    )
    for name in shapes
  }
  start = tfds.features.Tensor(shape=(), dtype=np.float64, encoding=tfds.features.Encoding.BYTES)
  text = tfds.features.Text()
  return tfds.features.FeaturesDict(dict(key=text, caption=text, first_time=start) | tensors)


def folder(directory: epath.PathLike, name: str, height: int, width: int) -> epath.Path:
  """Of the records of one corpus at one size.

  Args:
    directory: of the cache.
    name: of the corpus.
    height: of the buckets, pixels.
    width: of the buckets, pixels.
  """
  return epath.Path(directory) / name / f'{width}x{height}'


def frame_times(first_time: float, duration: float, fps: float, max_frames: int) -> list[float]:
  """Presentation times of the frames that are kept of a video, seconds.

  Args:
    first_time: presentation time of the video's first frame, seconds.
    duration: from the first frame to the last one, seconds.
    fps: of the cache, frames per second.
    max_frames: of the cache.
  """
  count = min(max_frames, int((duration + 1e-3) * fps) + 1)
  return [first_time + k / fps for k in range(count)]


def check_buckets(buckets: Sequence[buckets_lib.Bucket], fps: float, max_frames: int) -> None:
  """Raises ValueError for a bucket that cannot be drawn from such a cache.

  Args:
    buckets: of a run.
    fps: of the cache, frames per second.
    max_frames: that the cache has of a video.
  """
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


def size_of(buckets: Sequence[buckets_lib.Bucket]) -> dict[str, Any]:
  """What a cache says of the buckets of one size: height, width, media, and what they take.

  The framing (aspects.Framing: sizes, max_crop, max_enlarge) is there if they have one.
  """
  first = buckets[0]
  media = sorted({bucket.media for bucket in buckets})
  found: dict[str, Any] = dict(height=first.height, width=first.width, media=media)
  if first.framing:
    sizes = [list(size) for size in first.framing.sizes]
    found['framing'] = [sizes, first.framing.max_crop, first.framing.max_enlarge]
  return found


def taken(table: table_lib.Table, size: Mapping[str, Any]) -> np.ndarray | None:
  """Which rows of the table the buckets of a size take by the rows' own sizes: bool (N,), by place.

  None is all.

  Args:
    table: of the corpora.
    size: of `size_of`.
  """
  if 'framing' not in size:
    return None
  sizes, *bounds = size['framing']
  framing = aspects.Framing('', tuple(map(tuple, sizes)), *bounds)
  return table.assigned(framing) == framing.sizes.index((size['height'], size['width']))


def read_manifest(directory: epath.PathLike) -> dict:
  """The manifest of a whole cache; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  if not path.exists():
    raise ValueError(
      f'data.cache={directory} holds no cache (no manifest.json). Make one: '
      f'python -m i2vgen_jax.precompute --config=... --output={shlex.quote(str(directory))}'
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
  """What is encoded of one record; to be called in a child process.

  Args:
    fields: of pixels.
  """

  def __init__(self, fields: Sequence[fields_lib.PixelField]):
    self._fields = tuple(fields)

  def prepare(self) -> None:
    """Only there: open files are not to be pickled, and what reads them is slow to import."""
    self._records = reader.Records()

  def __call__(
    self,
    shard: str,
    record: int,
    times: Sequence[float],
    height: int,
    width: int,
    content: Sequence[float] = (),
  ) -> dict[str, Any]:
    """key, caption, and of each field all frames: uint8 (F, height, width, 3).

    Args:
      shard: its file of records.
      record: its place in that file.
      times: ascending presentation times of the F frames, seconds; [] for an image.
      height: of the bucket, pixels.
      width: of the bucket, pixels.
      content: as of decoder.Request.
    Raises:
      DecodeError: it cannot be decoded.
    """
    found = self._records.read(shard, record)
    pixels = {
      name: np.empty((len(times) or 1, *shape), np.uint8)
      for name, shape in frame_shapes(self._fields, height, width).items()
    }
    views = [
      decode.View(pixels[field.name], range(len(times) or 1), field.is_square)
      for field in self._fields
    ]
    if times:
      decode.decode_video_into(views, found['data'], times, content=content)
    else:
      decode.decode_image_into(views, found['data'])
    return dict(key=found['key'], caption=found['caption'], **pixels)


def frame_shapes(
  fields: Sequence[fields_lib.PixelField], height: int, width: int
) -> dict[str, tuple[int, ...]]:
  """Shape of one frame in a bucket of a size, by field: (height, width, 3), as each shows it.

  Args:
    fields: of pixels.
    height: of the bucket, pixels.
    width: of the bucket, pixels.
  """
  bucket = buckets_lib.Bucket('', 1, height, width, fps=1.0, batch_size=1, media='image')
  return {field.name: field.shape(bucket)[-3:] for field in fields}


class Reader:
  """As decoder.Decoder, from a cache: fills moments and embeddings instead of pixels.

  Args:
    directory: of the cache.
    corpora: that are streamed.
    table: which of their rows are.
    buckets: that are drawn.
    kept: the arrays to read.

  Attributes:
    max_duration: seconds of a video that the cache has.
    fingerprint: of the cache.

  Raises:
    ValueError: no cache, or one of other corpora, another index or other sizes.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    corpora: reader.Corpora,
    table: table_lib.Table,
    buckets: Sequence[buckets_lib.Bucket],
    kept: Sequence[Kept],
  ):
    manifest = read_manifest(directory)
    identity = manifest['identity']
    self.fingerprint = fingerprint(identity)
    self._check_source(directory, identity, corpora, table)
    sizes = {(size['height'], size['width']): size for size in identity['sizes']}
    for bucket in buckets:
      if bucket.media not in sizes.get(bucket.size, {}).get('media', ()):
        raise ValueError(
          f'bucket {bucket.name!r}: the cache {directory} has no {bucket.media}s of {bucket.width}x'
          f'{bucket.height}, only {[f"{w}x{h}" for h, w in sizes]}: precompute with these buckets.'
        )
      made_for = sizes[bucket.size].get('framing')
      if made_for != size_of([bucket]).get('framing'):
        raise ValueError(
          f'bucket {bucket.name!r}: the cache {directory} is of the aspects and bounds {made_for}: '
          'give the same data.aspects, data.max_crop and data.max_enlarge, or precompute again.'
        )
    self._fps = identity['fps']
    check_buckets(buckets, self._fps, identity['max_frames'])
    self.max_duration = (identity['max_frames'] - 1) / self._fps
    self._dtype = np.dtype(identity['dtype'])
    self._kept = {array.name: array for array in kept}
    self._shapes = {size: manifest['shapes'][f'{size[1]}x{size[0]}'] for size in sizes}
    self._check_arrays(directory)
    self._folders: dict[tuple[str, tuple[int, int]], epath.Path] = {}
    for name, path in corpora.directories.items():
      for size in sizes:
        self._folders[str(path), size] = folder(directory, name, *size)
    self._records = reader.Records(('key', 'caption'), ('first_time', *self._kept))
    self._slots = slots.Slots(corpora, table)

  def _check_arrays(self, directory: epath.PathLike) -> None:
    for shapes in self._shapes.values():
      missing = [name for name in self._kept if name not in shapes]
      if missing:
        raise ValueError(
          f'the cache {directory} holds {list(shapes)} and not {missing}, which the conditions of '
          'this config read: precompute again with this config.'
        )

  @staticmethod
  def _check_source(
    directory: epath.PathLike, identity: Mapping, corpora: reader.Corpora, table: table_lib.Table
  ) -> None:
    opened = dict(zip(corpora.names, corpora.fingerprints, strict=True))
    if identity['corpora'] != opened or identity['table'] != table.fingerprint:
      raise ValueError(
        f'the cache {directory} is of the corpora {identity["corpora"]} with index '
        f'{identity["table"]}, but data.directories are {opened} with index {table.fingerprint}: '
        'give the same data.directories and data.index, or precompute again.'
      )

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int) -> dict[str, np.ndarray]:
    """The kept arrays of a batch: of all drawn frames (b, F, ...), or of one or none (b, ...)."""
    batch = _Batch((bucket.height, bucket.width))
    for name, array in self._kept.items():
      shape = self._shapes[batch.size][name]  # The cache's own: of these moments, of this size.
      inner = shape[1:] if array.frames else shape
      frames = (bucket.frames,) if array.frames == 'all' else ()
      batch[name] = np.empty((batch_size, *frames, *inner), self._dtype)
    return batch

  def fill(
    self, batch: dict[str, np.ndarray], requests: Mapping[int, decoder.Request]
  ) -> Iterator[tuple[int, decoder.Decoded]]:
    """As decoder.Decoder.fill."""
    batch = cast('_Batch', batch)  # `empty` made it.
    places = [
      (
        self._path(request.shard, batch.size),
        self._slots.find(request.shard, request.record, request.span),
      )
      for request in requests.values()
    ]
    records = self._records.read_ahead(places)
    for (row, request), record in zip(requests.items(), records, strict=True):
      if isinstance(record, DecodeError):
        yield row, decoder.Decoded('', error=str(record))
        continue
      try:
        self._take(batch, row, record, request.times)
      except DecodeError as error:
        yield row, decoder.Decoded(record['key'], error=str(error))
        continue
      yield row, decoder.Decoded(record['key'], record['caption'])

  def _path(self, shard: str, size: tuple[int, int]) -> str:
    """The cache's shard for one of the corpora's."""
    folder, _, name = shard.rpartition('/')
    return f'{self._folders[folder, size]}/{name}'

  def _take(
    self, batch: '_Batch', row: int, record: Mapping[str, bytes], times: Sequence[float]
  ) -> None:
    arrays = {
      name: np.frombuffer(record[name], self._dtype).reshape(
        [-1 if size is None else size for size in self._shapes[batch.size][name]]
      )
      for name in self._kept
    }
    num_frames = max(len(values) for name, values in arrays.items() if self._kept[name].frames)
    chosen = np.zeros(1, int)
    if times:
      [first_time] = np.frombuffer(record['first_time'], np.float64)
      chosen = np.rint((np.array(times) - times[0]) * self._fps).astype(int)
      first = round((times[0] - first_time) * self._fps)
      chosen += min(max(first, 0), num_frames - 1 - chosen[-1])
    if not num_frames or chosen[0] < 0:
      raise DecodeError('cache', 'it could not be decoded when the cache was made.')
    taken = {'all': chosen, 'first': chosen[0], 'last': chosen[-1], '': ...}
    for name, values in arrays.items():
      batch[name][row] = values[taken[self._kept[name].frames]]

  def cpu_secs(self) -> float:
    """Of other processes: none."""
    return 0.0

  def open(self) -> None:
    """Nothing to start."""

  def close(self) -> None:
    """Nothing to end."""


class _Batch(dict[str, np.ndarray]):
  """Arrays by name, and the (height, width) in pixels that they stand for."""

  def __init__(self, size: tuple[int, int]):
    super().__init__()
    self.size = size
