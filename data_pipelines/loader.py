"""The training stream: a pure function of the step, on any number of hosts and threads.

Per bucket: rows -> shuffled anew each epoch -> this host's share -> batch; then steps are mixed
from the buckets by weight. All of it is random access (grain.MapDataset), so the position
of a run is its step, and a restart, also on other hosts, goes on with the same global batches.

The stream is total: an example that cannot be decoded is replaced by another one, chosen by the
same function of the step, counted and named once. Too many of them end the run.
"""

import dataclasses
import hashlib
import json
import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from data_pipelines import buckets as buckets_lib
from data_pipelines import corpus, decode, shuffle, transforms

Batch = dict[str, np.ndarray]
Tokenize = Callable[[list[str]], np.ndarray]

MAX_REPLACEMENTS = 8
IMAGE_FPS = 1.0


class DataError(ValueError):
  """More examples than allowed cannot be decoded."""


class TrainStream:
  """Global batches of a run, as one host sees them: rows host_index::host_count of each.

  A batch is video uint8 (b, F, H, W, 3); clip_image uint8 (b, S, S, 3), the first frame as the CLIP
  tower takes it; token_ids int32 (b, L); fps float32 (b,), of the sampling; position int32 (b,),
  the rows of the global batch.

  Attributes:
    fingerprint: changes with the corpus, the buckets and the seed; a restart should find the same.
    num_bad: examples that could not be decoded so far, on this host.
    bad_examples: their keys and the reasons.
  """

  def __init__(
    self,
    directories: str | Mapping[str, str],
    buckets: Sequence[buckets_lib.Bucket],
    tokenize: Tokenize,
    clip_image_size: int,
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 2,
    max_bad_fraction: float = 0.01,
  ):
    _check_buckets(buckets, host_index, host_count)
    corpora = corpus.Corpora(directories, 'train')
    self._buckets = tuple(buckets)
    self._num_threads = num_threads
    self._health = _Health(corpora, max_bad_fraction)
    steps = []
    for bucket in buckets:
      rows = buckets_lib.eligible(bucket, corpora.columns)
      bucket_seed = zlib.crc32(f'{seed} {bucket.name}'.encode())
      load = _ExampleLoader(corpora, bucket, clip_image_size)
      load_batch = _BatchLoader(load, rows, tokenize, bucket_seed, self._health)
      examples = shuffle.epochs(rows, bucket_seed).map_with_index(_pair)
      local = examples[host_index::host_count]
      steps.append(local.batch(bucket.batch_size // host_count, batch_fn=load_batch))
    weights = [bucket.weight for bucket in buckets]
    self._steps = grain.MapDataset.mix(steps, weights)
    choices = [grain.MapDataset.source([bucket]).repeat() for bucket in buckets]
    self._bucket_of_step = grain.MapDataset.mix(choices, weights)
    described = [corpora.fingerprint, *(dataclasses.astuple(b) for b in buckets), seed]
    described.append(clip_image_size)
    self.fingerprint = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]

  @property
  def bad_examples(self) -> dict[str, str]:
    """Reasons by key."""
    return dict(self._health.bad)

  @property
  def num_bad(self) -> int:
    """How many different examples could not be decoded."""
    return len(self._health.bad)

  def bucket_at(self, step: int) -> buckets_lib.Bucket:
    """The bucket of a step: the same on all hosts."""
    return self._bucket_of_step[step]

  def batch_at(self, step: int) -> Batch:
    """This host's rows of a step's batch; what `iterate` yields, by definition."""
    return self._steps[step]

  def iterate(self, first_step: int = 0) -> 'BatchIterator':
    """Yields (bucket, batch) from first_step on, for ever, decoded ahead in threads."""
    # Buffered are whole batches: one per thread and one to spare, instead of Grain's 500.
    options = grain.ReadOptions(
      num_threads=self._num_threads, prefetch_buffer_size=self._num_threads + 1
    )
    return BatchIterator(self, self._steps[first_step:].to_iter_dataset(options), first_step)


class BatchIterator(Iterator):
  """Iterator over (bucket, batch); close it to stop its threads."""

  def __init__(self, stream: TrainStream, batches: grain.IterDataset, first_step: int):
    self._stream = stream
    self._batches = iter(batches)
    self._step = first_step

  def __next__(self) -> tuple[buckets_lib.Bucket, Batch]:
    batch = next(self._batches)
    self._step += 1
    return self._stream.bucket_at(self._step - 1), batch

  def close(self) -> None:
    """Stops decoding ahead."""
    self._batches.close()


def held_out(
  directories: str | Mapping[str, str],
  bucket: buckets_lib.Bucket,
  tokenize: Tokenize,
  clip_image_size: int,
  num_examples: int,
  split: str = 'validation',
) -> dict:
  """The first examples of the held-out split that fill the bucket, from their first frame on.

  Returns:
    A batch as of TrainStream, with 'caption' and 'key' (lists of str) besides; of fewer than
    num_examples rows if the split has fewer, which is logged.
  """
  corpora = corpus.Corpora(directories, split)
  load = _ExampleLoader(corpora, bucket, clip_image_size)
  batch = load.empty(num_examples)
  captions, keys = [], []
  for row in buckets_lib.eligible(bucket, corpora.columns):
    try:
      caption = load(row, 0.0, *(batch[name][len(keys)] for name in ('video', 'clip_image')))
    except decode.DecodeError as error:
      logging.warning('held-out %s cannot be decoded: %s', corpora.columns['key'][row], error)
      continue
    captions.append(caption)
    keys.append(str(corpora.columns['key'][row]))
    if len(keys) == num_examples:
      break
  if not keys:
    raise DataError(f'no {split} example for {bucket} can be decoded.')
  if len(keys) < num_examples:
    logging.warning('%s has %d examples for %d asked.', split, len(keys), num_examples)
  batch = {name: values[: len(keys)] for name, values in batch.items()}
  batch['token_ids'] = np.asarray(tokenize(captions), np.int32)
  return dict(batch, caption=captions, key=keys)


def _pair(index, row):
  return index, row


class _BatchLoader:
  """[(index in the bucket's endless stream, row)] -> batch; bad media is replaced by other rows."""

  def __init__(self, load, rows, tokenize, seed, health):
    self.load = load
    self.rows = rows
    self.tokenize = tokenize
    self.seed = seed
    self.health = health

  def __call__(self, indices_and_rows):
    batch = self.load.empty(len(indices_and_rows))
    captions = []
    for i, (index, row) in enumerate(indices_and_rows):
      captions.append(self._fill(index, row, batch['video'][i], batch['clip_image'][i]))
      batch['position'][i] = index % self.load.bucket.batch_size
    batch['token_ids'] = np.asarray(self.tokenize(captions), np.int32)
    return batch

  def _fill(self, index, row, video, clip_image):
    rng = np.random.default_rng((self.seed, index))
    start_fraction = rng.random()
    for _ in range(MAX_REPLACEMENTS + 1):
      try:
        caption = self.load(row, start_fraction, video, clip_image)
      except decode.DecodeError as error:
        self.health.count(row, str(error))
        row = self.rows[rng.integers(len(self.rows))]
      else:
        self.health.count(row)
        return caption
    raise DataError(
      f'bucket {self.load.bucket.name!r}: {MAX_REPLACEMENTS + 1} examples in a row cannot be '
      f'decoded: {self.health.listing()}'
    )


class _ExampleLoader:
  """Decodes single examples of a bucket, into the arrays of a batch."""

  def __init__(self, corpora, bucket, clip_image_size):
    self.corpora = corpora
    self.bucket = bucket
    self.clip_image_size = clip_image_size
    self._local = threading.local()

  @property
  def _converter(self):
    """This thread's."""
    if not hasattr(self._local, 'converter'):
      self._local.converter = decode.Converter()
    return self._local.converter

  def empty(self, batch_size):
    """A batch but for the tokens, to be filled."""
    bucket, side = self.bucket, self.clip_image_size
    fps = IMAGE_FPS if bucket.media == 'image' else bucket.fps
    return dict(
      video=np.empty((batch_size, bucket.frames, bucket.height, bucket.width, 3), np.uint8),
      clip_image=np.empty((batch_size, side, side, 3), np.uint8),
      fps=np.full(batch_size, fps, np.float32),
      position=np.arange(batch_size, dtype=np.int32),
    )

  def __call__(self, row, start_fraction, video, clip_image):
    """Fills video (F, H, W, 3) and clip_image; start_fraction places the window in the video.

    Returns:
      The caption.
    """
    bucket, columns = self.bucket, self.corpora.columns
    record = self.corpora.read(row)
    if bucket.media == 'image':
      first_frame = decode.decode_image(record['data'])
      video[0] = transforms.center_crop_resize(first_frame, bucket.height, bucket.width)
      clip_image[:] = transforms.central_square(first_frame, self.clip_image_size)
    else:
      slack = max(0.0, columns['duration'][row] - bucket.span)
      start = columns['first_time'][row] + start_fraction * slack
      times = start + np.arange(bucket.frames) / bucket.fps
      decode.decode_video_into(video, clip_image, record['data'], times, self._converter)
    return record['caption']


class _Health:
  """Counts what was decoded and what was not; raises DataError if that is too much."""

  # A share of fewer examples would say little; a smaller corpus is judged by its own size.
  MIN_SEEN = 500

  def __init__(self, corpora, max_bad_fraction):
    self.corpora = corpora
    self.max_bad_fraction = max_bad_fraction
    self.num_seen = 0
    self.bad: dict[str, str] = {}
    self.lock = threading.Lock()

  def count(self, row, reason=None):
    with self.lock:
      self.num_seen += 1
      if reason is None:
        return
      key = str(self.corpora.columns['key'][row])
      if key in self.bad:
        return
      self.bad[key] = reason
      logging.warning('%s cannot be decoded (%s): another example takes its place.', key, reason)
      num_distinct = min(max(self.num_seen, self.MIN_SEEN), len(self.corpora))
      if len(self.bad) > max(1, self.max_bad_fraction * num_distinct):
        raise DataError(
          f'{len(self.bad)} of {min(self.num_seen, len(self.corpora))} examples cannot be '
          f'decoded, more than max_bad_fraction={self.max_bad_fraction:g}: {self.listing()} '
          'Check the corpus, or ingest it again: that leaves out what is damaged.'
        )

  def listing(self):
    named = [f'{key} ({reason})' for key, reason in list(self.bad.items())[:10]]
    return ', '.join(named) + (', ...' if len(self.bad) > 10 else '.')


def _check_buckets(buckets, host_index, host_count):
  if not buckets:
    raise ValueError('buckets is empty: a run needs at least one.')
  names = [bucket.name for bucket in buckets]
  if len(set(names)) < len(names):
    raise ValueError(f'bucket names should differ: {names}.')
  if not 0 <= host_index < host_count:
    raise ValueError(f'host_index={host_index} should be in [0, host_count={host_count}).')
  for bucket in buckets:
    if bucket.batch_size % host_count:
      raise ValueError(
        f'bucket {bucket.name!r}: batch_size={bucket.batch_size} should divide over '
        f'{host_count} hosts.'
      )
