"""Bench: what decoding the user's own shards costs, and the processors that a host needs for it."""

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.media import errors
from data_pipelines.media import frames as frames_lib
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import stream as stream_lib

HEADROOM = 1.3  # Over the mean: slow examples, and the run itself.


@dataclasses.dataclass(frozen=True)
class Costs:
  """Processor seconds per example, of the same examples.

  Attributes:
    decode: decoding the wanted frames, no more; 0 for images.
    stream: the whole stream, in its child processes.
    rate: examples per second of wall time with num_threads processes.
  """

  decode: float
  stream: float
  rate: float


def measure(
  directories: Mapping[str, str],
  bucket: buckets_lib.Bucket,
  num_batches: int = 8,
  num_threads: int = 2,
  clip_image_size: int = 224,
  index: str = '',
) -> Costs:
  """Streams batches of a bucket and decodes their examples once more, alone.

  Args:
    directories: name -> ingested corpus.
    bucket: shape of the batches.
    num_batches: that are timed.
    num_threads: batches made at a time, each in a process.
    clip_image_size: side of the CLIP tower's squares, pixels.
    index: folder of an index of the corpora, or ''.
  Raises:
    ValueError: no corpus there, or nothing in it that fills the bucket.
  """
  stream = open_stream(directories, bucket, num_threads, index, clip_image_size)
  batches = stream.iterate()
  try:
    for _ in range(num_threads):  # Until all processes run.
      next(batches)
    wall, cpu = time.monotonic(), time.process_time() + stream.child_cpu_secs
    for _ in range(num_batches):
      next(batches)
    wall = time.monotonic() - wall
    cpu = time.process_time() + stream.child_cpu_secs - cpu
  finally:
    batches.close()
  count = num_batches * bucket.batch_size
  return Costs(_decode_secs(stream, num_batches), cpu / count, count / wall)


def open_stream(
  directories: Mapping[str, str],
  bucket: buckets_lib.Bucket,
  num_threads: int,
  index: str,
  clip_image_size: int = 224,
) -> stream_lib.TrainStream:
  """A stream of one bucket; arguments as of `measure`."""
  fields = fields_lib.released(_tokenize, clip_image_size)
  return stream_lib.TrainStream(
    directories, [bucket], fields, seed=0, num_threads=num_threads, index=index
  )


def _decode_secs(stream: stream_lib.TrainStream, num_batches: int) -> float:
  """Processor seconds per example for decoding alone, of what can be decoded."""
  records, total, count = reader.Records(), 0.0, 0
  for step in range(num_batches):
    for example in stream.examples_at(step):
      if not example['times']:
        return 0.0
      try:
        data = records.read(example['shard'], example['record'])['data']
        start = time.process_time()
        for _ in frames_lib.at_times(data, list(example['times'])):
          pass
      except errors.DecodeError:
        continue
      total += time.process_time() - start
      count += 1
  return total / max(count, 1)


def _tokenize(captions: Sequence[str]) -> np.ndarray:
  return np.zeros((len(captions), 1), np.int32)
