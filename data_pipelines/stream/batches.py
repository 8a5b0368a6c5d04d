"""From drawn rows to a batch: where their media lies, what of it is shown, and what replaces it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.index import table as table_lib
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import captions as captions_lib
from data_pipelines.stream import decoder as decoder_lib
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import health as health_lib
from data_pipelines.stream import replacements, sandboxed_decoder

Decoder = decoder_lib.Decoder | sandboxed_decoder.SandboxedDecoder | cache_lib.Reader
Drawn = Sequence[tuple[int, tuple[int, int]]]  # (index, (number of the cell, place)).


def request(
  corpora: reader.Corpora,
  table: table_lib.Table,
  bucket: buckets_lib.Bucket,
  place: int | np.integer,
  start_fraction: float,
  max_duration: float = math.inf,
) -> decoder_lib.Request:
  """What to decode for a place in the table.

  Args:
    corpora: where the record is.
    table: whose place it is.
    bucket: that it is drawn for.
    place: in the table.
    start_fraction: in [0, 1), where the window begins: 0 is the earliest frame, 1 the latest that
      leaves room for the bucket's frames.
    max_duration: seconds of the video that count, from its start.
  """
  shard, record = corpora.locate(table.row(place))
  if bucket.media == 'image':
    return decoder_lib.Request(shard, record, ())
  duration = min(float(table.columns['duration'][place]), max_duration)
  slack = max(0.0, duration - bucket.span)
  start = float(table.columns['first_time'][place]) + start_fraction * slack
  times = tuple(start + i / bucket.fps for i in range(bucket.frames))
  return decoder_lib.Request(shard, record, times, table.content(place), table.span(place))


class Batches:
  """[(index in the bucket's endless stream, (number of the cell, place))] -> batch.

  What cannot be decoded is replaced by another row of its cell, which the index decides.

  Args:
    decoder: of the pixels, or of what stands for them.
    corpora: where the records are.
    table: whose places are drawn.
    bucket: of the batches.
    bucket_cells: its cells, by number.
    fields: what a batch holds.
    seed: of the windows and the replacements.
    health: counts what is decoded and what is not.
    replaced: remembers what is replaced, and knows what was in earlier attempts of the run.
    captions: that are drawn in place of those in the records, if any.
  """

  def __init__(
    self,
    decoder: Decoder,
    corpora: reader.Corpora,
    table: table_lib.Table,
    bucket: buckets_lib.Bucket,
    bucket_cells: Sequence[table_lib.Cell],
    fields: Sequence[fields_lib.Field],
    seed: int,
    health: health_lib.Health,
    replaced: replacements.Replacements,
    captions: captions_lib.Captions | None = None,
  ):
    self._decoder = decoder
    self._captions = captions
    self._corpora = corpora
    self._table = table
    self._bucket = bucket
    self._cells = bucket_cells
    self._fields = fields
    self._seed = seed
    self._health = health
    self._replaced = replaced

  def __call__(self, drawn: Drawn) -> dict[str, np.ndarray]:
    """Raises DataError if too much of it cannot be decoded."""
    batch = self._decoder.empty(self._bucket, len(drawn))
    captions, motion = [''] * len(drawn), [math.nan] * len(drawn)
    rngs = [np.random.default_rng((self._seed, index)) for index, _ in drawn]
    starts = [rng.random() for rng in rngs]
    places = {i: place for i, (_, (_, place)) in enumerate(drawn)}
    rows, spans = [0] * len(drawn), [0] * len(drawn)
    for _ in range(self._health.max_tries):
      known = self._replaced_before(drawn, places)
      requests = {i: self._request(at, starts[i]) for i, at in places.items() if i not in known}
      for i, decoded in itertools.chain(known.items(), self._decoder.fill(batch, requests)):
        if decoded.error:
          row = self._table.row(places[i])
          key = decoded.key or self._corpora.key(row)
          self._health.count(key, decoded.error)
          self._replaced.add(self._bucket, drawn[i][0], row, key, decoded.error)
          cell = self._cells[drawn[i][1][0]]
          places[i] = int(cell.places[rngs[i].integers(len(cell.places))])
        else:
          self._health.count()
          place = places.pop(i)
          rows[i], spans[i] = self._table.row(place), self._table.span(place)
          captions[i], motion[i] = decoded.caption, self._table.motion(place)
      if not places:
        break
    else:
      raise health_lib.DataError(
        f'bucket {self._bucket.name!r}: {self._health.max_tries} examples in a row cannot be '
        f'decoded: {self._health.listing()}'
      )
    if self._captions:
      # Of a generator of their own: they change no window and no replacement.
      fractions = [np.random.default_rng((self._seed, index, 1)).random() for index, _ in drawn]
      chosen = self._captions.draw(rows, spans, fractions)
      captions = [new or old for new, old in zip(chosen, captions, strict=True)]
    positions = [index % self._bucket.batch_size for index, _ in drawn]
    return fields_lib.add_rows(
      batch, self._fields, fields_lib.Rows(self._bucket, captions, positions, motion)
    )

  def _replaced_before(
    self, drawn: Drawn, places: Mapping[int, int]
  ) -> dict[int, decoder_lib.Decoded]:
    """What an earlier attempt of the run replaced, with the reason: it is again, unseen."""
    found = {}
    for i, place in places.items():
      if reason := self._replaced.reason(self._bucket, drawn[i][0], self._table.row(place)):
        found[i] = decoder_lib.Decoded('', error=reason)
    return found

  def row(self) -> dict[str, np.ndarray]:
    """A batch of one row, whose values mean nothing: the names, shapes and types of all."""
    batch = self._decoder.empty(self._bucket, 1)
    return fields_lib.add_rows(batch, self._fields, fields_lib.Rows(self._bucket, [''], [0]))

  def _request(self, place: int | np.integer, start: float) -> decoder_lib.Request:
    duration = self._decoder.max_duration
    return request(self._corpora, self._table, self._bucket, place, start, duration)

  def describe(self, index: int, cell: int, place: int) -> dict[str, Any]:
    """Key, cell, and where and when in the corpus a draw lies, before any replacement; and content,
    if its frames have borders, and span, if it is not the first of its video.

    Args:
      index: in the bucket's endless stream.
      cell: number of the cell.
      place: in the table.
    """
    start = np.random.default_rng((self._seed, index)).random()
    drawn = self._request(place, start)
    key = self._corpora.key(self._table.row(place))
    found = dict(key=key, cell=self._cells[cell].name, **vars(drawn))
    for name in ('content', 'span'):
      if not found[name]:
        del found[name]
    return found
