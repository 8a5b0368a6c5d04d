"""Copies over all corpora of an index: what one of them holds out or denies, none trains on.

A video goes with all its shots. `curate` compares the examples of one corpus. Here the fingerprints
of all are compared, of all splits; without `curate` only equal bytes are found. They lie in files
(data_pipelines/curate/columns.py); memory holds some bytes of each row.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from data_pipelines.corpus import reader, schema, sidecars, storage
from data_pipelines.curate import columns, duplicates, grouping, proof

DENIED = "list_contains(reject, 'denylist')"  # SQL; of copies within the corpus too.
_FACTS = np.dtype(
  [
    ('digest', np.uint64, 2),
    ('print', duplicates.PRINT),
    ('size', np.int64, 2),  # Pixels, bytes.
    ('is_denied', bool),
  ]
)


def drop(
  table: sidecars.Sidecars,
  directories: Sequence[epath.Path],
  rows: dict[str, np.ndarray],
  keep_copies: bool,
) -> list[dict]:
  """Takes the copies out of the rows of Sidecars.select.

  Args:
    table: of the training rows.
    directories: of ingested corpora, in the order of reader.Corpora.
    rows: columns, which become shorter.
    keep_copies: whether those stay that are copies of nothing held out or denied.
  Returns:
    Steps of the funnel, of what drops any.
  """
  steps: list[dict] = []

  def drop_those(is_dropped: np.ndarray, condition: str) -> None:
    if is_dropped.any():
      _leave(rows, ~is_dropped)
      steps.append(dict(condition=condition, num_rows=len(rows['row'])))

  held_out = 'no copy of what a corpus holds out'
  denied = 'no copy of what a corpus denies'
  if len(directories) == 1 and {'dup_group', 'reject'} <= table.columns:  # `curate` compared them.
    for condition, what in ((_held_out(table, directories[0]), held_out), (DENIED, denied)):
      drop_those(_are(rows['row'], table.select([condition], [])['row']), what)
    return steps
  copies = Copies(directories)
  drop_those(copies.of_held_out(rows['row']), held_out)
  drop_those(copies.of_denied(rows['row']), denied)
  if not keep_copies:
    drop_those(copies.of_better(rows['row']), 'no copy of another corpus')
  return steps


def _held_out(table: sidecars.Sidecars, directory: epath.Path) -> str:
  """SQL: a row is a copy of what a corpus holds out, as `curate` says."""
  groups = [np.zeros(0, np.int64)]
  for split, found in reader.read_manifest(directory)['splits'].items():
    paths = [_curated(directory / shard['sidecar']) for shard in found['shards']]
    groups += storage.in_threads(_groups, paths) if split != 'train' else []
  return table.choose(np.unique(np.concatenate(groups)), 'dup_group')


def _are(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """bool, of each row: whether it is one of the chosen ones, which are few."""
  found = np.zeros(len(rows), bool)
  for block in grouping.blocks(len(rows)):
    found[block] = np.isin(rows[block], chosen)
  return found


def _groups(path: epath.Path) -> np.ndarray:
  return storage.read_table(path, ['dup_group'])['dup_group'].to_numpy()


def _leave(rows: dict[str, np.ndarray], is_left: np.ndarray) -> None:
  if not is_left.all():
    for name in rows:  # One at a time: no two of the old columns are there beside the new ones.
      rows[name] = rows[name][is_left]


class Copies:
  """Groups of copies of corpora.

  Args:
    directories: of ingested corpora, in the order of reader.Corpora.
  """

  def __init__(self, directories: Sequence[epath.Path]):
    train, others = [], []
    for number, directory in enumerate(directories):
      for split, found in reader.read_manifest(directory)['splits'].items():
        paths = [(number, epath.Path(directory) / shard['sidecar']) for shard in found['shards']]
        (train if split == 'train' else others).extend(paths)
    self._paths = [path for _, path in train + others]
    facts, starts = columns.Columns(_FACTS), [0]
    for start in range(0, len(self._paths), storage.IN_FLIGHT):  # Few at a time in memory.
      for found in storage.in_threads(_read, self._paths[start : start + storage.IN_FLIGHT]):
        facts.append(found)
        starts.append(len(facts))
    self._starts = np.array(starts)
    self._num_train = starts[len(train)]
    self._corpus_of_shard = np.array([number for number, _ in train], np.int64)
    facts_N = facts.mapped()
    self._size_N2 = facts_N['size']
    self._denied = np.flatnonzero(facts_N['is_denied'])
    self._group_N = duplicates.groups(facts_N['digest'], facts_N['print'], self._evidence)

  def of_held_out(self, rows: np.ndarray) -> np.ndarray:
    """bool, of each of these training rows: whether any corpus holds a copy of it out."""
    is_held_out_N = np.zeros(len(self._group_N), bool)  # At the first of a group, by its name.
    is_held_out_N[self._group_N[self._num_train :]] = True
    return self._of(rows, is_held_out_N)

  def of_denied(self, rows: np.ndarray) -> np.ndarray:
    """bool, of each of these training rows: whether the lists of any corpus deny a copy of it."""
    is_denied_N = np.zeros(len(self._group_N), bool)  # As above.
    is_denied_N[self._group_N[self._denied]] = True
    return self._of(rows, is_denied_N)

  def of_better(self, rows: np.ndarray) -> np.ndarray:
    """bool, of each of these training rows: whether another corpus has the best of its group.

    The best has most pixels, then most bytes, then comes first. Copies within one corpus are
    curate's to drop.
    """
    has_copies_N = np.zeros(len(self._group_N), bool)
    for block in grouping.blocks(len(self._group_N)):
      names = self._group_N[block]
      has_copies_N[names[names != np.arange(block.start, block.stop)]] = True
    places = np.flatnonzero(self._of(rows, has_copies_N))
    found = np.zeros(len(rows), bool)
    found[places] = self._is_worse(rows[places])
    return found

  def _is_worse(self, rows: np.ndarray) -> np.ndarray:
    """of_better, of rows that have copies: few."""
    groups, sizes = self._group_N[rows], self._size_N2[rows]
    shards = np.searchsorted(self._starts, rows, side='right') - 1
    corpora = self._corpus_of_shard[shards]
    order = np.lexsort((-rows.astype(np.int64), sizes[:, 1], sizes[:, 0], groups))
    groups_in_order = groups[order]
    is_last = np.append(groups_in_order[1:] != groups_in_order[:-1], True)[: len(order)]
    best = order[is_last]
    place = np.searchsorted(groups[best], groups)
    return corpora[best][place] != corpora

  def _of(self, rows: np.ndarray, is_so_N: np.ndarray) -> np.ndarray:
    """What is so of the groups of these rows, by their names."""
    found = np.zeros(len(rows), bool)
    for block in grouping.blocks(len(rows)):
      found[block] = is_so_N[self._group_N[rows[block]]]
    return found

  def _evidence(self, indices: np.ndarray) -> Iterator[proof.Evidence]:
    shard_N = np.searchsorted(self._starts, indices, side='right') - 1
    for shard in np.unique(shard_N).tolist():
      table = storage.read_table(_curated(self._paths[shard]), ['hashes', 'points'])
      mine = table.take(indices[shard_N == shard] - self._starts[shard])
      yield from map(proof.Evidence.of, mine.to_pylist())


def _curated(sidecar: epath.Path) -> epath.Path:
  return sidecar.parent / 'curate' / sidecar.name


def _read(sidecar: epath.Path) -> np.ndarray:
  """_FACTS of a shard: what copies are proposed and ranked by; of `curate` where it has run."""
  rows = storage.read_table(sidecar, ['sha256', 'num_bytes', 'height', 'width']).to_pylist()
  path = _curated(sidecar)
  if path.exists():
    added = storage.read_table(path, ['key'], (*schema.PRINTS[:2], 'reject')).to_pylist()
    rows = [row | found for row, found in zip(rows, added, strict=True)]
  facts_N = np.zeros(len(rows), _FACTS)
  for fact, row in zip(facts_N, rows, strict=True):
    fact['digest'] = np.frombuffer(bytes.fromhex(row['sha256'])[:16], np.uint64)
    fact['size'] = row['height'] * row['width'], row['num_bytes']
    fact['is_denied'] = 'denylist' in (row.get('reject') or ())
    if row.get('part_hashes') is not None:  # Sidecars of before lack them.
      fact['print'] = duplicates.print_of(row)
  return facts_N
