"""Seen: which steps of a run drew the rows of a condition, such as what a denylist names now."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import reader, sidecars, storage
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import stream as stream_lib

DENIED = "list_contains(reject, 'denylist')"


class Seen:
  """A run, and the rows that are looked for.

  Args:
    workdir: of the run, whose config.json tells the stream.
    where: SQL on the sidecars' columns.

  Attributes:
    num_steps: of the run's config.
    num_rows: that the condition is true of, in the corpora of the run.

  Raises:
    ValueError: no run in workdir, its corpora cannot be opened, or the condition is none.
  """

  def __init__(self, workdir: str, where: str = DENIED):
    path = epath.Path(workdir) / 'config.json'
    if not path.exists():
      raise ValueError(f'{workdir} holds no config.json: no run was started there.')
    config = storage.read_json(path, 'data', 'train')
    self.num_steps = int(config['train']['num_steps'])
    side = config['image_encoder']['model']['image_size']
    fields = fields_lib.released(lambda texts: np.zeros((len(texts), 1), np.int32), side)
    self._stream = stream_lib.from_config(config, fields, max_bad_fraction=1.0, cache='')
    self._corpora = reader.Corpora(config['data']['directories'], 'train')
    table = sidecars.Sidecars(self._corpora)
    if where == DENIED and 'reject' not in table.columns:
      raise ValueError('no corpus is curated: run `curate` with the list, or give --where.')
    rows = table.select([where], [])['row']
    self.num_rows = len(rows)
    self._rows = set(rows.tolist())

  def steps(self, until: int) -> Iterator[dict[str, Any]]:
    """Yields step, bucket and keys of each step before `until` that drew any of the rows.

    What took the place of an example that could not be decoded is not looked at.
    """
    for step in range(until if self._rows else 0):
      bucket, rows = self._stream.rows_at(step)
      if found := self._rows.intersection(rows):
        keys = [self._corpora.key(row) for row in sorted(found)]
        yield dict(step=step, bucket=bucket.name, keys=keys)
