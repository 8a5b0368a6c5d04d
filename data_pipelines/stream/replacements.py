"""What took the place of examples that could not be decoded: remembered, and done again.

Which example takes a bad one's place is a function of the step (batches.py). Whether one is bad may
not be: a decoder that hangs or crashes once need not do so again. So a run writes down what it
replaced, and a resumed run replaces it without a look: a step's batch stays the same.
"""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from data_pipelines.corpus import buckets as buckets_lib


class Replacements:
  """Those of one stream on one host."""

  def __init__(self) -> None:
    self._new: list[dict[str, Any]] = []
    self._known: dict[tuple[str, int, int], str] = {}
    self._lock = threading.Lock()

  def add(self, bucket: buckets_lib.Bucket, draw: int, row: int, key: str, reason: str) -> None:
    """Remembers that an example was replaced.

    Args:
      bucket: that it was drawn for.
      draw: index in the bucket's endless stream.
      row: of the corpora.
      key: of the example.
      reason: why it could not be decoded.
    """
    found = dict(bucket=bucket.name, draw=draw, corpus_row=row, key=key, reason=reason)
    with self._lock:
      self._new.append(found)

  def reason(self, bucket: buckets_lib.Bucket, draw: int, row: int) -> str:
    """Why an earlier attempt of the run replaced this; '' if it did not."""
    return self._known.get((bucket.name, draw, row), '')

  def take(self, bucket: buckets_lib.Bucket, batch: int) -> list[dict[str, Any]]:
    """What was replaced in the bucket's batch of this number; each is told once."""
    told, rest = [], []
    with self._lock:
      for found in self._new:
        is_in = (found['bucket'], found['draw'] // bucket.batch_size) == (bucket.name, batch)
        (told if is_in else rest).append(found)
      self._new = rest
    return told

  def again(self, told: Iterable[Mapping[str, Any]]) -> None:
    """Replaces what `take` told an earlier attempt of the run."""
    for found in told:
      self._known[found['bucket'], found['draw'], found['corpus_row']] = found['reason']
