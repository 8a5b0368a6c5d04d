"""Single examples of a batch: from a place in a shard to pixels, in arrays that exist already."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines import buckets as buckets_lib
from data_pipelines import corpus, decode, transforms

IMAGE_FPS = 1.0


@dataclasses.dataclass(frozen=True)
class Request:
  """What to decode.

  Attributes:
    shard, record: file of records, and the place in it.
    times: presentation times of the frames, seconds; () for an image.
  """

  shard: str
  record: int
  times: tuple[float, ...]


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


def empty(bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int, new=np.empty) -> dict:
  """The pixels of a batch, to be filled; `new` makes an array of a shape and dtype."""
  side = clip_image_size
  return dict(
    video=new((batch_size, bucket.frames, bucket.height, bucket.width, 3), np.uint8),
    clip_image=new((batch_size, side, side, 3), np.uint8),
  )


class Decoder:
  """Decodes in this process, in any number of threads. See workers.Workers for the other way."""

  def __init__(self):
    self._records = corpus.Records()
    self._local = threading.local()

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
    """As examples.empty."""
    return empty(bucket, batch_size, clip_image_size)

  def fill(self, batch: dict, requests: Mapping[int, Request]) -> Iterator[tuple[int, Decoded]]:
    """Fills rows of a batch that `empty` made; yields (row, what became of it), in order."""
    if not hasattr(self._local, 'converter'):
      self._local.converter = decode.Converter()
    for row, request in requests.items():
      yield row, self._fill(batch['video'][row], batch['clip_image'][row], request)

  def _fill(self, video, clip_image, request):
    key = ''
    try:
      record = self._records.read(request.shard, request.record)
      key = record['key']
      self.check(record['data'])
      if request.times:
        converter = self._local.converter
        decode.decode_video_into(video, clip_image, record['data'], request.times, converter)
      else:
        image = decode.decode_image(record['data'])
        video[0] = transforms.center_crop_resize(image, *video.shape[1:3])
        clip_image[:] = transforms.central_square(image, clip_image.shape[0])
    except decode.DecodeError as error:
      return Decoded(key, error=str(error))
    return Decoded(key, record['caption'])

  def check(self, data: bytes) -> None:
    """Raises decode.DecodeError for media that must not be decoded; here there is none."""

  def cpu_secs(self) -> float:
    """Of other processes: none."""
    return 0.0

  def open(self) -> None:
    """Nothing to start."""

  def close(self) -> None:
    """Nothing to end."""
