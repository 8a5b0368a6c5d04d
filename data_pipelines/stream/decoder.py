"""Single examples of a batch: from a place in a shard to pixels, in arrays that exist already."""

import dataclasses
import hashlib
import logging
import math
import threading
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.media import crops, decode, sandbox, shared_memory

TIMEOUT_SECS = 60.0  # Of the processor, for one example; a minute of 4K video decodes in 20 s.
# A JPEG that is so much larger than the target may be decoded at half its size. The pixels then
# differ by 2 of 255 on average from the whole one's, by 3 if 1.05 were enough (two photographs).
OVERSAMPLING = 1.4


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


def shapes(bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
  """Of the pixels of a batch, uint8."""
  side = clip_image_size
  return dict(
    video=(batch_size, bucket.frames, bucket.height, bucket.width, 3),
    clip_image=(batch_size, side, side, 3),
  )


class Decoder:
  """Decodes in this process, in any number of threads.

  Attributes:
    quarantine: SHA-256 of files that are not decoded.
  """

  max_duration = math.inf  # Seconds of a video that there are.

  def __init__(self):
    self.quarantine: Collection[str] = ()
    self._records = reader.Records()
    self._local = threading.local()

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
    """The pixels of a batch, to be filled."""
    found = shapes(bucket, batch_size, clip_image_size)
    return {name: np.empty(shape, np.uint8) for name, shape in found.items()}

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
      self._check(record['data'])
      if request.times:
        converter = self._local.converter
        decode.decode_video_into(video, clip_image[None], record['data'], request.times, converter)
      else:
        fill_image(video[0], clip_image, record['data'])
    except decode.DecodeError as error:
      return Decoded(key, error=str(error))
    return Decoded(key, record['caption'])

  def _check(self, data):
    # Hashing costs 1 % of decoding: only once there is something to look for.
    if self.quarantine and hashlib.sha256(data).hexdigest() in self.quarantine:
      raise decode.DecodeError('quarantine', 'a decoder crashed or hung on this file.')

  def cpu_secs(self) -> float:
    """Of other processes: none."""
    return 0.0

  def open(self) -> None:
    """Nothing to start."""

  def close(self) -> None:
    """Nothing to end."""


class SandboxedDecoder:
  """As Decoder, in child processes that may crash or hang; one for each thread that asks.

  Requests and captions go through a pipe, pixels straight into the batch.

  Attributes:
    sandbox: the children.
    num_lost: examples at which a child crashed or hung, and the next one too.
    quarantine: SHA-256 of their files: no child decodes them again.
  """

  max_duration = math.inf

  def __init__(self, timeout_secs: float = TIMEOUT_SECS):
    self.sandbox = sandbox.Sandbox(_Fill(), timeout_secs)
    self.num_lost = 0
    self.quarantine: set[str] = set()
    self._memory = shared_memory.Memory()
    self.open, self.close = self.sandbox.open, self.sandbox.close
    self.cpu_secs = self.sandbox.cpu_secs

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int, clip_image_size: int) -> dict:
    """As Decoder.empty, in memory that the children see."""
    return self._memory.batch(shapes(bucket, batch_size, clip_image_size))

  def fill(self, batch: dict, requests: Mapping[int, Request]) -> Iterator[tuple[int, Decoded]]:
    """As Decoder.fill."""
    left = dict(requests)
    suspect = None
    while left:
      batch.progress[0] = 0
      work = (batch.path, batch.layout, left, tuple(self.quarantine))
      try:
        yield from self.sandbox(*work, progress=batch.progress)
        return
      except decode.DecodeError as error:
        row, request = list(left.items())[min(batch.progress[0], len(left) - 1)]
        logging.warning('%s, record %d: %s', request.shard, request.record, error)
        if suspect == row:
          del left[row]
          yield row, self._lose(request, str(error))
        suspect = row  # Once may be the machine's fault, and must not change the batch.

  def _lose(self, request, reason):
    """Quarantines the media at which a child was lost."""
    self.num_lost += 1
    key = ''
    try:
      record = reader.Records().read(request.shard, request.record)
      key = record['key']
      self.quarantine.add(hashlib.sha256(record['data']).hexdigest())
    except decode.DecodeError:
      logging.warning('%s, record %d: cannot be read either.', request.shard, request.record)
    return Decoded(key, error=reason)


def fill_image(pixels_HWC: np.ndarray, square_SSC: np.ndarray, data: bytes) -> None:
  """Fills both from an encoded image; raises decode.DecodeError."""
  height, width = pixels_HWC.shape[:2]
  side = square_SSC.shape[0]
  smallest = (max(math.ceil(OVERSAMPLING * size), side) for size in (height, width))
  image = decode.decode_image(data, *smallest)
  scaled = crops.cover(image, height, width)
  pixels_HWC[:] = crops.center_crop(np.asarray(scaled), height, width)
  is_enough = min(scaled.size) >= OVERSAMPLING * side
  square_SSC[:] = crops.central_square(scaled if is_enough else image, side)


class _Fill:
  """In the child: (where the batch is, requests, quarantine) -> [(row, Decoded)]."""

  def __init__(self):
    self._decoder = None

  def __call__(self, path, layout, requests, quarantine):
    if self._decoder is None:  # Only there: what it opens is not to be pickled.
      self._decoder, self._memory = Decoder(), shared_memory.Opened()
    batch = self._memory.batch(path, layout)
    self._decoder.quarantine = quarantine
    results = []
    for found in self._decoder.fill(batch, requests):
      results.append(found)
      batch.progress[0] += 1
    return results


def make_decoder(sandbox: bool) -> Decoder | SandboxedDecoder:
  """In child processes, or in the threads themselves."""
  return SandboxedDecoder() if sandbox else Decoder()
