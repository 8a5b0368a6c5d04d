"""Single examples of a batch: from a place in a shard to pixels, in arrays that exist already."""

import dataclasses
import hashlib
import math
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import PIL.Image

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.media import decode, errors, pictures
from data_pipelines.stream import fields as fields_lib


@dataclasses.dataclass(frozen=True)
class Request:
  """What to decode.

  Attributes:
    shard, record: file of records, and the place in it.
    times: presentation times of the frames, seconds; () for an image.
    content: where in a video's frames its content is (schema.CONTENT); () is the whole frame.
    span: which shot of the video it is, as the index numbers them.
  """

  shard: str
  record: int
  times: tuple[float, ...]
  content: tuple[float, ...] = ()
  span: int = 0


@dataclasses.dataclass(frozen=True)
class Decoded:
  """What became of a request.

  Attributes:
    key: of the record; '' if it could not be read.
    caption: of the record.
    error: '' if all is well, else why the arrays are not filled.
  """

  key: str
  caption: str = ''
  error: str = ''


def shapes(
  fields: Sequence[fields_lib.PixelField], bucket: buckets_lib.Bucket, batch_size: int
) -> dict[str, tuple[int, ...]]:
  """Shapes of the pixels of a batch, uint8, by name.

  Args:
    fields: of pixels.
    bucket: of the batch.
    batch_size: rows of the batch.
  """
  return {field.name: (batch_size, *field.shape(bucket)) for field in fields}


def of_pictures(
  fields: Sequence[fields_lib.PixelField],
  images: Sequence[pictures.Encoded | PIL.Image.Image],
  height: int,
  width: int,
) -> dict[str, np.ndarray]:
  """The pixels of a batch of pictures, to the bit as a corpus of them would give.

  Args:
    fields: of pixels.
    images: encoded, or decoded already.
    height: of the bucket, pixels.
    width: of the bucket, pixels.
  Raises:
    DecodeError: one cannot be decoded.
  """
  bucket = buckets_lib.Bucket(
    '', 1, height, width, fps=fields_lib.IMAGE_FPS, batch_size=len(images), media='image'
  )
  batch = {
    name: np.empty(shape, np.uint8) for name, shape in shapes(fields, bucket, len(images)).items()
  }
  for row, image in enumerate(images):
    pixels = {name: values[row] for name, values in batch.items()}
    data = image.data if isinstance(image, pictures.Encoded) else image
    decode.decode_image_into(_views(fields, pixels, 1), data)
  return batch


class Decoder:
  """Decodes in this process, in any number of threads.

  Args:
    fields: what of an example is wanted.
    remote: of reader.Corpora; None if nothing is known.

  Attributes:
    quarantine: SHA-256 of files that are not decoded.
  """

  max_duration = math.inf  # Seconds of a video that there are.

  def __init__(
    self,
    fields: Sequence[fields_lib.PixelField],
    remote: reader.Remote | None = None,
  ):
    self.fields = tuple(fields)
    self.quarantine: Collection[str] = ()
    self._records = reader.Records(remote=remote)
    self._local = threading.local()

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int) -> dict[str, np.ndarray]:
    """The pixels of a batch, to be filled."""
    found = shapes(self.fields, bucket, batch_size)
    return {name: np.empty(shape, np.uint8) for name, shape in found.items()}

  def fill(
    self, batch: dict[str, np.ndarray], requests: Mapping[int, Request]
  ) -> Iterator[tuple[int, Decoded]]:
    """Fills rows of a batch that `empty` made; yields (row, what became of it), in order."""
    if not hasattr(self._local, 'converter'):
      self._local.converter = decode.Converter()
    places = [(request.shard, request.record) for request in requests.values()]
    records = self._records.read_ahead(places)
    for (row, request), record in zip(requests.items(), records, strict=True):
      pixels = {name: values[row] for name, values in batch.items()}
      yield row, self._fill(pixels, request, record)

  def _fill(
    self,
    pixels: Mapping[str, np.ndarray],
    request: Request,
    record: dict | errors.DecodeError,
  ) -> Decoded:
    if isinstance(record, errors.DecodeError):
      return Decoded('', error=str(record))
    try:
      self._check(record['data'])
      if request.times:
        views = _views(self.fields, pixels, len(request.times))
        decode.decode_video_into(
          views, record['data'], request.times, self._local.converter, request.content
        )
      else:
        decode.decode_image_into(_views(self.fields, pixels, 1), record['data'])
    except errors.DecodeError as error:
      return Decoded(record['key'], error=str(error))
    return Decoded(record['key'], record['caption'])

  def _check(self, data: bytes) -> None:
    # Hashing costs 1 % of decoding: only once there is something to look for.
    if self.quarantine and hashlib.sha256(data).hexdigest() in self.quarantine:
      raise errors.DecodeError('quarantine', 'a decoder crashed or hung on this file.')

  def cpu_secs(self) -> float:
    """Of other processes: none."""
    return 0.0

  def open(self) -> None:
    """Nothing to start."""

  def close(self) -> None:
    """Nothing to end."""


def _views(
  fields: Sequence[fields_lib.PixelField], pixels: Mapping[str, np.ndarray], num_frames: int
) -> list[decode.View]:
  views = []
  for field in fields:
    values = pixels[field.name]
    frames_NHWC = values.reshape(-1, *values.shape[-3:])
    views.append(decode.View(frames_NHWC, field.frames(num_frames), field.is_square))
  return views
