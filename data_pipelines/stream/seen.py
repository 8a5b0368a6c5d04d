"""Seen: which steps of a run drew the rows of a condition, such as what a denylist names now."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import reader, sidecars, storage
from data_pipelines.index import copies
from data_pipelines.stream import history
from data_pipelines.stream import order as order_lib


class Seen:
  """A run, and the rows that are looked for.

  Args:
    workdir: of the run, whose config.json tells the stream.
    where: SQL on the sidecars' columns. With copies.DENIED it is what the lists of any corpus deny,
      and its copies in all of them.
    since: first step that is looked at.

  Attributes:
    num_steps: of the run's config.
    num_rows: that the condition is true of, in the corpora of the run.

  Raises:
    ValueError: no run in workdir, its corpora, now or before a change, cannot be opened, or the
      condition is none.
  """

  def __init__(self, workdir: str, where: str = copies.DENIED, since: int = 0):
    path = epath.Path(workdir) / 'config.json'
    if not path.exists():
      raise ValueError(
        f'{workdir} holds no config.json: no run was started there. '
        f'{storage.where_else(workdir, "config.json")}'
      )
    config = storage.read_json(path, 'data', 'train')
    self.num_steps = int(config['train']['num_steps'])
    self._since = since
    self._parts = history.parts(workdir, config, since)
    self._corpora = reader.Corpora(config['data']['directories'], 'train')
    table = sidecars.Sidecars(self._corpora)
    if where == copies.DENIED and 'reject' not in table.columns:
      raise ValueError('no corpus is curated: run `curate` with the list, or give --where.')
    rows = table.select([where], [])['row']
    if where == copies.DENIED and len(self._corpora.names) > 1:
      of_denied = copies.Copies(list(self._corpora.directories.values())).of_denied
      rows = np.union1d(rows, np.flatnonzero(of_denied(np.arange(len(self._corpora)))))
    self._rows = rows
    self.num_rows = len(self._rows)

  def steps(self, until: int) -> Iterator[dict[str, Any]]:
    """Yields step, bucket and keys of each step from `since` to `until` that drew any of the rows.

    What took the place of an example that could not be decoded is not looked at.
    """
    stops = [part.start for part in self._parts[:-1]]
    for part, stop in zip(self._parts[::-1], [*stops[::-1], until], strict=True):
      steps = range(max(part.start, self._since), min(stop, until)) if self.num_rows else range(0)
      yield from self._of(part, steps)

  def _of(self, part: history.Part, steps: range) -> Iterator[dict[str, Any]]:
    """`steps` of a part of the run; the rows that it draws are of corpora as they were then."""
    corpora = part.corpora or self._corpora
    order = order_lib.from_config(part.config, corpora)
    if part.change:
      part.change.apply(order)
    wanted = set(history.renumbered(self._rows, self._corpora, history.starts_of(corpora)).tolist())
    for step in steps:
      if found := wanted.intersection(order.rows(step)):
        keys = [corpora.key(row) for row in sorted(found)]
        yield dict(step=step, bucket=order.bucket(step).name, keys=keys)
