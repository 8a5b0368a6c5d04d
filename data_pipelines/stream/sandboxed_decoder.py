"""The decoder of a stream in child processes, which may crash or hang."""

import hashlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.media import errors, sandbox, shared_memory
from data_pipelines.stream import decoder
from data_pipelines.stream import fields as fields_lib

TIMEOUT_SECS = 60.0  # Of the processor, for one example; a minute of 4K video decodes in 20 s.


class SandboxedDecoder:
  """As Decoder, in child processes that may crash or hang; one for each thread that asks.

  Requests and captions go through a pipe, pixels straight into the batch.

  Args:
    fields: what of an example is wanted.
    remote: as of Decoder.
    timeout_secs: of the processor, for one example.

  Attributes:
    sandbox: the children.
    num_lost: examples that crashed or hung children even when decoded alone.
    quarantine: SHA-256 of their files: no child decodes them again.
  """

  max_duration = math.inf

  def __init__(
    self,
    fields: Sequence[fields_lib.PixelField],
    remote: reader.Remote | None = None,
    timeout_secs: float = TIMEOUT_SECS,
  ):
    self.fields = tuple(fields)
    self.sandbox = sandbox.Sandbox(_Fill(self.fields, remote), timeout_secs)
    self.num_lost = 0
    self.quarantine: set[str] = set()
    self._memory = shared_memory.Memory()
    self.open, self.close = self.sandbox.open, self.sandbox.close
    self.cpu_secs = self.sandbox.cpu_secs

  def empty(self, bucket: buckets_lib.Bucket, batch_size: int) -> dict[str, np.ndarray]:
    """As Decoder.empty, in memory that the children see."""
    return self._memory.batch(decoder.shapes(self.fields, bucket, batch_size))

  def fill(
    self, batch: dict[str, np.ndarray], requests: Mapping[int, decoder.Request]
  ) -> Iterator[tuple[int, decoder.Decoded]]:
    """As Decoder.fill; what was being decoded when a child was lost comes first."""
    batch = cast(shared_memory.Batch, batch)  # `empty` made it.
    left = dict(requests)
    while left:
      batch.progress[0] = 0
      try:
        yield from self.sandbox.once(*self._work(batch, left), progress=batch.progress)
        return
      except sandbox.LostChildError as lost:
        row, request = list(left.items())[min(int(batch.progress[0]), len(left) - 1)]
        logging.warning('%s, record %d: %s', request.shard, request.record, lost)
        del left[row]
        yield row, self._alone(batch, row, request)

  def _alone(
    self, batch: shared_memory.Batch, row: int, request: decoder.Request
  ) -> decoder.Decoded:
    """Decodes one row in children that have decoded nothing else."""
    work = self._work(batch, {row: request})
    try:
      [(_, decoded)] = self.sandbox(*work, progress=batch.progress, fresh=True)
    except sandbox.LostChildError as lost:
      return self._lose(request, str(lost))
    return decoded

  def _work(self, batch: shared_memory.Batch, requests: Mapping[int, decoder.Request]) -> tuple:
    return batch.path, batch.layout, dict(requests), tuple(self.quarantine)

  def _lose(self, request: decoder.Request, reason: str) -> decoder.Decoded:
    """Quarantines the media at which a child was lost."""
    self.num_lost += 1
    key = ''
    try:
      record = reader.Records().read(request.shard, request.record)
      key = record['key']
      self.quarantine.add(hashlib.sha256(record['data']).hexdigest())
    except errors.DecodeError:
      logging.warning('%s, record %d: cannot be read either.', request.shard, request.record)
    return decoder.Decoded(key, error=reason)


class _Fill:
  """In the child: (where the batch is, requests, quarantine) -> [(row, Decoded)]."""

  def __init__(self, fields: Sequence[fields_lib.PixelField], remote: reader.Remote | None = None):
    self._fields, self._remote = fields, remote

  def prepare(self) -> None:
    """Only there: what it opens is not to be pickled, and takes a second to import."""
    self._decoder = decoder.Decoder(self._fields, self._remote)
    self._memory = shared_memory.Opened()

  def __call__(
    self,
    path: str,
    layout: shared_memory.Layout,
    requests: Mapping[int, decoder.Request],
    quarantine: Collection[str],
  ) -> list[tuple[int, decoder.Decoded]]:
    batch = self._memory.batch(path, layout)
    self._decoder.quarantine = quarantine
    results = []
    for found in self._decoder.fill(batch, requests):
      results.append(found)
      batch.progress[0] += 1
    return results


def make_decoder(
  fields: Sequence[fields_lib.Field], sandbox: bool, remote: reader.Remote | None = None
) -> decoder.Decoder | SandboxedDecoder:
  """Of the fields that are pixels: in child processes, or in the threads themselves."""
  pixels = fields_lib.pixel_fields(fields)
  return SandboxedDecoder(pixels, remote) if sandbox else decoder.Decoder(pixels, remote)
