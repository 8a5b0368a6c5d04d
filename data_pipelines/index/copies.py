"""Copies over all corpora of an index: what one of them holds out, none of them trains on.

`curate` sees one corpus. Here the fingerprints of all are compared, of all splits; without `curate`
only equal bytes are found.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from data_pipelines.corpus import reader, schema, storage
from data_pipelines.curate import duplicates

_FACTS = np.dtype(
  [('digest', np.uint64, 2), ('print', duplicates.PRINT), ('size', np.int64, 2)]  # Pixels, bytes.
)


def without(
  directories: Sequence[epath.Path],
  rows: Mapping[str, np.ndarray],
  funnel: list[dict],
  keep_copies: bool,
) -> dict[str, np.ndarray]:
  """The rows that are not copies over corpora; adds to the funnel what drops some.

  Args:
    directories: of ingested corpora, in the order of reader.Corpora.
    rows: of sidecars.Sidecars.select.
    funnel: steps so far.
    keep_copies: whether those that several corpora hold stay; of what one holds out, none does.
  """
  copies = Copies(directories)

  def drop(is_dropped: np.ndarray, condition: str) -> None:
    nonlocal rows
    if is_dropped.any():
      rows = {name: values[~is_dropped] for name, values in rows.items()}
      funnel.append(dict(condition=condition, num_rows=len(rows['row'])))

  drop(copies.of_held_out()[rows['row'].astype(np.int64)], 'no copy of what a corpus holds out')
  if not keep_copies:
    drop(copies.of_better(rows['row'].astype(np.int64)), 'no copy of another corpus')
  return dict(rows)


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
    facts = storage.in_threads(_read, self._paths)
    lengths = [len(found) for found in facts]
    self._starts = np.cumsum([0, *lengths])
    self._num_train = int(sum(lengths[: len(train)]))
    self._corpus_N = np.repeat([number for number, _ in train + others], lengths)
    facts_N = np.concatenate(facts)
    self._size_N2 = facts_N['size']
    self._group_N = duplicates.groups(facts_N['digest'], facts_N['print'], self._evidence)

  def of_held_out(self) -> np.ndarray:
    """bool, of each training row: whether any corpus holds a copy of it out."""
    held_out = np.unique(self._group_N[self._num_train :])
    return np.isin(self._group_N[: self._num_train], held_out)

  def of_better(self, rows: np.ndarray) -> np.ndarray:
    """bool, of each of these training rows: whether another corpus has the best of its group.

    The best has most pixels, then most bytes, then comes first. Copies within one corpus are
    curate's to drop.
    """
    groups, corpora = self._group_N[rows], self._corpus_N[rows]
    sizes = self._size_N2[rows]
    order = np.lexsort((-rows.astype(np.int64), sizes[:, 1], sizes[:, 0], groups))
    is_last = np.diff(groups[order], append=-1) != 0
    best = order[is_last]
    place = np.searchsorted(groups[best], groups)
    return corpora[best][place] != corpora

  def _evidence(self, indices: np.ndarray) -> dict[int, duplicates.Evidence]:
    found = {}
    shard_of = np.searchsorted(self._starts, indices, side='right') - 1
    for shard in np.unique(shard_of).tolist():
      path = _curated(self._paths[shard])
      table = storage.read_table(path, ['hashes', 'points'])
      mine = indices[shard_of == shard]
      for index, row in zip(
        mine.tolist(), table.take(mine - self._starts[shard]).to_pylist(), strict=True
      ):
        found[index] = duplicates.Evidence.of(row)
    return found


def _curated(sidecar: epath.Path) -> epath.Path:
  return sidecar.parent / 'curate' / sidecar.name


def _read(sidecar: epath.Path) -> np.ndarray:
  """_FACTS of a shard: what copies are proposed and ranked by; of `curate` where it has run."""
  rows = storage.read_table(sidecar, ['sha256', 'num_bytes', 'height', 'width']).to_pylist()
  path = _curated(sidecar)
  if path.exists():
    added = storage.read_table(path, ['key'], schema.PRINTS[:2]).to_pylist()
    rows = [row | found for row, found in zip(rows, added, strict=True)]
  facts_N = np.zeros(len(rows), _FACTS)
  for fact, row in zip(facts_N, rows, strict=True):
    fact['digest'] = np.frombuffer(bytes.fromhex(row['sha256'])[:16], np.uint64)
    fact['size'] = row['height'] * row['width'], row['num_bytes']
    if row.get('part_hashes') is not None:  # Sidecars of before lack them.
      fact['print'] = duplicates.print_of(row)
  return facts_N
