"""The training stream: a pure function of the step, on any number of hosts and threads.

Per bucket: rows -> shuffled anew each epoch -> example -> this host's share -> batch; then steps
are mixed from the buckets by weight. All of it is random access (grain.MapDataset), so the position
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
from data_pipelines import corpus, decode, transforms

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
      load = _Load(corpora, bucket, rows, clip_image_size, bucket_seed, self._health)
      examples = shuffled_epochs(rows, bucket_seed).map_with_index(load)
      local = examples[host_index::host_count]
      collate = _Collate(tokenize, bucket)
      steps.append(local.batch(bucket.batch_size // host_count, batch_fn=collate))
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
  rows = buckets_lib.eligible(bucket, corpora.columns)
  examples = []
  for row in rows:
    try:
      examples.append(_example(corpora, bucket, row, 0.0, clip_image_size))
    except decode.DecodeError as error:
      logging.warning('held-out %s cannot be decoded: %s', corpora.columns['key'][row], error)
    if len(examples) == num_examples:
      break
  if not examples:
    raise DataError(f'none of the {len(rows)} {split} examples for {bucket} can be decoded.')
  if len(examples) < num_examples:
    logging.warning('%s has %d examples for %d asked.', split, len(examples), num_examples)
  for position, example in enumerate(examples):
    example['position'] = position
  batch = _Collate(tokenize, bucket)(examples)
  return dict(batch, **{name: [e[name] for e in examples] for name in ('caption', 'key')})


def shuffled_epochs(rows: np.ndarray, seed: int) -> grain.MapDataset:
  """All rows in an order that differs each epoch, without end; each epoch has each row once."""
  dataset = grain.MapDataset.source(rows).seed(seed)
  if _shuffle_is_broken(len(rows)):
    # The last row keeps its place at the end of each epoch.
    parts = [dataset[: len(rows) - 1].shuffle(), dataset[len(rows) - 1 :]]
    return grain.MapDataset.concatenate(parts).repeat()
  return dataset.shuffle().repeat()


def _shuffle_is_broken(length):
  """Grain 0.2.18 repeats an element of 2^k + 1, for even k >= 16, and leaves out another."""
  bits = (length - 1).bit_length() - 1
  return length - 1 == 1 << bits and bits >= 16 and bits % 2 == 0


class _Load:
  """(Index in a bucket's endless stream, row) -> example, replaced if its media is bad."""

  def __init__(self, corpora, bucket, rows, clip_image_size, seed, health):
    self.corpora = corpora
    self.bucket = bucket
    self.rows = rows
    self.clip_image_size = clip_image_size
    self.seed = seed
    self.health = health

  def __call__(self, index, row):
    rng = np.random.default_rng((self.seed, index))
    start_fraction = rng.random()
    for _ in range(MAX_REPLACEMENTS + 1):
      try:
        example = _example(self.corpora, self.bucket, row, start_fraction, self.clip_image_size)
      except decode.DecodeError as error:
        self.health.count(row, str(error))
        row = self.rows[rng.integers(len(self.rows))]
      else:
        self.health.count(row)
        example['position'] = index % self.bucket.batch_size
        return example
    raise DataError(
      f'bucket {self.bucket.name!r}: {MAX_REPLACEMENTS + 1} examples in a row cannot be decoded: '
      f'{self.health.listing()}'
    )


def _example(corpora, bucket, row, start_fraction, clip_image_size):
  """Decodes one example; start_fraction in [0, 1) places the sampled window in the video."""
  columns = corpora.columns
  record = corpora.read(row)
  if bucket.media == 'image':
    first_frame = decode.decode_image(record['data'])
    frames = transforms.center_crop_resize(first_frame, bucket.height, bucket.width)
    frames = np.asarray(frames)[None]
  else:
    slack = max(0.0, columns['duration'][row] - bucket.span)
    start = columns['first_time'][row] + start_fraction * slack
    times = start + np.arange(bucket.frames) / bucket.fps
    frames, first_frame = decode.decode_video(record['data'], times, bucket.height, bucket.width)
  clip_image = transforms.clip_square(first_frame, bucket.width, clip_image_size)
  return dict(
    video=frames, clip_image=np.asarray(clip_image), caption=record['caption'], key=record['key']
  )


class _Collate:
  """Examples of one bucket -> batch."""

  def __init__(self, tokenize, bucket):
    self.tokenize = tokenize
    self.fps = IMAGE_FPS if bucket.media == 'image' else bucket.fps

  def __call__(self, examples):
    token_ids = self.tokenize([example['caption'] for example in examples])
    return dict(
      video=np.stack([example['video'] for example in examples]),
      clip_image=np.stack([example['clip_image'] for example in examples]),
      token_ids=np.asarray(token_ids, np.int32),
      fps=np.full(len(examples), self.fps, np.float32),
      position=np.array([example['position'] for example in examples], np.int32),
    )


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
