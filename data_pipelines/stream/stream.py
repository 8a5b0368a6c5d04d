"""The training stream: a pure function of the step, on any number of hosts and threads.

What a step draws (order.py) -> this host's rows -> batch. All of it is random access
(grain.MapDataset), so the position of a run is its step, and a restart, also on other hosts, goes
on with the same global batches; after a change of the data, with what its epochs have left
(carry.py).

The stream is total: an example that cannot be decoded is replaced by another one of its cell,
chosen by the same function of the step, counted and named once. Too many of them end the run.
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import disk_cache, reader
from data_pipelines.index import table as table_lib
from data_pipelines.stream import batches, history, replacements, sandboxed_decoder
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import captions as captions_lib
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import health as health_lib
from data_pipelines.stream import order as order_lib

Batch = dict[str, np.ndarray]
DataError = health_lib.DataError


class TrainStream:
  """Global batches of a run, as one host sees them: rows host_index::host_count of each.

  A batch holds the arrays of `fields`, and position int32 (b,), the rows of the global batch.

  Args:
    directories: ingested corpora, or such that are open.
    buckets: shapes of the steps.
    fields: what a batch holds, such as fields.Video() and fields.Fps().
    seed: of the order, the windows in the videos, and what replaces a bad example.
    host_index: whose rows.
    host_count: how many hosts there are.
    num_threads: batches that are made at a time; each has its decoding process.
    max_bad_fraction: a larger share of undecodable examples is an error, as of `Health`.
    index: folder of an index of the corpora (python -m data_pipelines index), or ''.
    sandbox: decode in processes that may crash; else in the threads themselves.
    sources: weights of the corpora by name; without, all rows are drawn alike, or as the index
      says.
    phases: buckets and sources that are drawn from a step on (mixture.read_phases).
    cache: folder of a cache (cache.py), or ''. Then the arrays of `kept` take the place of the
      fields that are pixels.
    kept: which arrays of the cache a batch holds.
    captions: draw from those that `caption` wrote, in place of those in the records.
    shard_cache: folder on a local disk for what is read from shards in buckets, or ''.
    shard_cache_gb: at most so much of it.
    salt: more that the fingerprint tells, for JSON.

  Attributes:
    order: which rows each step draws.
    buckets: that are drawn: all but aspects that no example has.
    corpora: that are drawn from.
    origin: what the order is made from; None if it is of no run's config.
    fingerprint: changes with the corpora, the index, the buckets and the seed; a restart should
      find the same.
    health: counts the examples that could not be decoded.
    num_bad: how many different ones there were, on this host.
    bad_examples: their keys and the reasons.
  """

  def __init__(
    self,
    directories: epath.PathLike | Mapping[str, epath.PathLike] | reader.Corpora,
    buckets: Sequence[buckets_lib.Bucket],
    fields: Sequence[fields_lib.Field],
    seed: int,
    host_index: int = 0,
    host_count: int = 1,
    num_threads: int = 2,
    max_bad_fraction: float = 0.01,
    index: str = '',
    sandbox: bool = True,
    sources: Mapping[str, float] | None = None,
    phases: Sequence[Mapping] = (),
    cache: str = '',
    kept: Sequence[cache_lib.Kept] = (),
    captions: bool = False,
    shard_cache: str = '',
    shard_cache_gb: float = 100.0,
    salt: Sequence = (),
  ):
    _check_buckets(buckets, host_index, host_count)
    given = isinstance(directories, reader.Corpora)
    corpora = directories if given else reader.Corpora(directories, 'train')
    self._table = order_lib.open_table(corpora, index)
    self._num_threads = num_threads
    self.health = health_lib.Health(len(corpora), max_bad_fraction)
    self._replaced = replacements.Replacements()
    if shard_cache:
      kept_records = disk_cache.DiskCache.at(shard_cache, int(shard_cache_gb * 1e9))
      corpora.remote = dataclasses.replace(corpora.remote, cache=kept_records)
    self._decoder: batches.Decoder = (
      cache_lib.Reader(cache, corpora, self._table, buckets, kept)
      if cache
      else sandboxed_decoder.make_decoder(fields, sandbox, corpora.remote)
    )
    if captions and cache:
      raise ValueError('data.captions and data.cache are given: a cache holds one caption of each.')
    if (
      any(isinstance(field, fields_lib.Motion) for field in fields)
      and not self._table.knows_motion()
    ):
      logging.warning(
        'How much moves is known of no example, so that the condition motion learns nothing: '
        '`curate` measures it of what it keeps, and an index holds it (data.index).'
      )
    drawn_captions = captions_lib.Captions(corpora) if captions else None
    fields = (fields_lib.Position(), *fields)
    self.order = order_lib.Order(self._table, buckets, corpora.names, seed, sources, phases)
    self.origin: history.Origin | None = None
    self.buckets = tuple(draws.bucket for draws in self.order.buckets)
    self.corpora = corpora
    self._host_index, self._host_count = host_index, host_count
    self._batches: list[batches.Batches] = []
    for draws in self.order.buckets:
      cells = [each.cell for each in draws.cells]
      make = batches.Batches(
        self._decoder, corpora, self._table, draws.bucket, cells, fields, draws.seed, self.health,
        self._replaced, drawn_captions,
      )  # fmt: skip
      self._batches.append(make)
    self._steps = grain.MapDataset.range(2**62).map(self._make)
    self._described = [*self.order.described, *salt, self.order.phases]
    if isinstance(self._decoder, cache_lib.Reader):
      self._described.append(self._decoder.fingerprint)
    if drawn_captions:
      self._described.append(drawn_captions.fingerprints)
    self.fingerprint = order_lib.digest(self._described)

  def go_on(self, change: history.Change) -> None:
    """Begins at a change, with what the epochs of the stream before it have left.

    Raises ValueError if the change is not to this stream.
    """
    change.apply(self.order)
    if self.origin:
      self.origin = dataclasses.replace(self.origin, change=change.name)
    self.fingerprint = order_lib.digest([*self._described, change.name])

  def _make(self, step: int) -> Batch:
    number, rows = self.order[step]
    draws = self.order.buckets[number]
    self.health.begin(step)
    return self._batches[number]([draws[i] for i in rows[self._host_index :: self._host_count]])

  def num_examples(self, bucket: buckets_lib.Bucket) -> int:
    """How many different examples fill a bucket."""
    return len(self.order.buckets[self.buckets.index(bucket)])

  def shapes(self, bucket: buckets_lib.Bucket) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name -> (shape, type) of a bucket's global batch."""
    row = self._batches[self.buckets.index(bucket)].row()
    size = bucket.batch_size
    return {name: ((size, *value.shape[1:]), value.dtype) for name, value in row.items()}

  @property
  def bad_examples(self) -> dict[str, str]:
    """Reasons by key."""
    return dict(self.health.bad)

  @property
  def num_bad(self) -> int:
    """How many different examples could not be decoded."""
    return len(self.health.bad)

  def replaced_at(self, step: int) -> list[dict[str, Any]]:
    """What this host replaced in a step's batch, once it is made; each is told once.

    Returns:
      Dicts for JSON of step, row (of the global batch), key and reason; and of bucket, draw,
      corpus_row and stream, by which `replace_again` knows them.
    """
    number, rows = self.order[step]
    bucket = self.buckets[number]
    batch = rows.start // bucket.batch_size
    return [
      dict(step=step, row=found['draw'] % bucket.batch_size, stream=self.fingerprint) | found
      for found in self._replaced.take(bucket, batch)
    ]

  def replace_again(self, told: Iterable[Mapping[str, Any]]) -> None:
    """Replaces what `replaced_at` told an earlier attempt of the run, whatever it is now."""
    self._replaced.again(found for found in told if found['stream'] == self.fingerprint)

  def bucket_at(self, step: int) -> buckets_lib.Bucket:
    """The bucket of a step: the same on all hosts."""
    return self.order.bucket(step)

  def counts_by_aspect(self, bucket: buckets_lib.Bucket) -> dict[str, int]:
    """Examples of each aspect of the bucket's group, and what bounds leave out; {} without."""
    return self._table.count(bucket.framing, bucket.media) if bucket.framing else {}

  def examples_at(self, step: int) -> list[dict]:
    """What a step's global batch draws, without decoding: key, cell, shard, record, times (s)."""
    number, rows = self.order[step]
    draws = (self.order.buckets[number][i] for i in rows)
    return [self._batches[number].describe(index, *draw) for index, draw in draws]

  @property
  def child_cpu_secs(self) -> float:
    """Processor time of the decoding processes so far, to a hundredth of a second."""
    return self._decoder.cpu_secs()

  def close(self) -> None:
    """Ends the processes that decode; they are started again when needed."""
    self._decoder.close()

  def batch_at(self, step: int) -> Batch:
    """This host's rows of a step's batch; what `iterate` yields, by definition."""
    self._decoder.open()
    batch = self._make(step)
    self.health.take(step)
    return batch

  def iterate(self, first_step: int = 0) -> 'BatchIterator':
    """Yields (bucket, batch) from first_step on, for ever, decoded ahead in threads."""
    self._decoder.open()
    # Buffered are whole batches: one per thread and one to spare, instead of Grain's 500.
    options = grain.ReadOptions(
      num_threads=self._num_threads, prefetch_buffer_size=self._num_threads + 1
    )
    return BatchIterator(self, self._steps[first_step:].to_iter_dataset(options), first_step)


def from_config(
  config: Mapping,
  fields: Sequence[fields_lib.Field],
  corpora: reader.Corpora | None = None,
  **options: Any,
) -> TrainStream:
  """The stream of a run's config; with the rows of all hosts unless the options say otherwise.

  Args:
    config: a plain dict as in a run's config.json.
    fields: what a batch holds.
    corpora: those of the config, opened; or as they were.
    options: those of TrainStream.
  """
  data = config['data']
  names = (
    'num_threads', 'max_bad_fraction', 'index', 'sandbox', 'sources', 'phases', 'cache', 'captions',
    'shard_cache', 'shard_cache_gb',
  )  # fmt: skip
  options = {name: data[name] for name in names if name in data} | options
  # Not a matter of the order, but checkpoints of all runs so far have it in their fingerprint.
  salt = [config['image_encoder']['model']['image_size']]
  corpora = corpora or reader.Corpora(data['directories'], 'train')
  buckets = buckets_lib.from_config(config)
  stream = TrainStream(corpora, buckets, fields, config['seed'], salt=salt, **options)
  stream.origin = history.Origin.of(config, corpora, stream.order.fingerprint)
  return stream


class BatchIterator(Iterator[tuple[buckets_lib.Bucket, Batch]]):
  """Iterator over (bucket, batch); close it to stop its threads.

  Args:
    stream: that tells the buckets; closed with this.
    batches: from first_step on.
    first_step: of the run.
  """

  def __init__(self, stream: TrainStream, batches: grain.IterDataset, first_step: int):
    self._stream = stream
    self._batches = iter(batches)
    self._step = first_step

  def __next__(self) -> tuple[buckets_lib.Bucket, Batch]:
    batch = next(self._batches)
    self._stream.health.take(self._step)
    self._step += 1
    return self._stream.bucket_at(self._step - 1), batch

  def close(self) -> None:
    """Stops decoding ahead, and ends the processes that decode."""
    self._batches.close()
    self._stream.close()


def held_out(
  directories: epath.PathLike | Mapping[str, epath.PathLike],
  bucket: buckets_lib.Bucket,
  fields: Sequence[fields_lib.Field],
  num_examples: int,
  split: str = 'validation',
  sandbox: bool = True,
) -> dict:
  """The first examples of the held-out split that fill the bucket, from their first frame on.

  What cannot be decoded, or crashes a decoder, is left out and logged.

  Args:
    directories: ingested corpora.
    bucket: shape of the examples; its batch_size does not matter.
    fields: what the batch holds.
    num_examples: at most so many.
    split: that is held out.
    sandbox: decode in a process that may crash; else in this one.
  Returns:
    A batch as of TrainStream, with 'caption' and 'key' (lists of str) besides; of fewer than
    num_examples rows if the split has fewer, which is logged.
  """
  corpora = reader.Corpora(directories, split)
  table = table_lib.whole(corpora)
  try:
    [cell] = table.eligible(bucket)
  except ValueError as error:
    if bucket.framing is None:
      raise
    raise ValueError(
      f'split {split!r}: {error} Or choose another aspect: sample.bucket.'
    ) from error
  decoder = sandboxed_decoder.make_decoder(fields, sandbox, corpora.remote)
  batch = decoder.empty(bucket, num_examples)
  captions: list[str] = []
  keys: list[str] = []
  for place in cell.places:
    request = batches.request(corpora, table, bucket, place, 0.0)
    [(_, decoded)] = decoder.fill(batch, {len(keys): request})
    if decoded.error:
      key = decoded.key or corpora.key(table.row(place))
      logging.warning('held-out %s cannot be decoded: %s', key, decoded.error)
      continue
    captions.append(decoded.caption)
    keys.append(decoded.key)
    if len(keys) == num_examples:
      break
  decoder.close()
  if not keys:
    raise DataError(f'no {split} example for {bucket} can be decoded.')
  if len(keys) < num_examples:
    logging.warning('%s has %d examples for %d asked.', split, len(keys), num_examples)
  batch = {name: values[: len(keys)] for name, values in batch.items()}
  rows = fields_lib.Rows(bucket, captions, range(len(keys)))
  batch = fields_lib.add_rows(batch, (fields_lib.Position(), *fields), rows)
  return dict(batch, caption=captions, key=keys)


def _check_buckets(buckets: Sequence[buckets_lib.Bucket], host_index: int, host_count: int) -> None:
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
