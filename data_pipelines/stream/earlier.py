"""Corpora as a run had them, opened from what they have become: each only grows, at its end."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import reader
from data_pipelines.stream import order as order_lib

Edition = Mapping[str, Any]  # fingerprint, num_shards and digest (of the shards) of a corpus.


def editions(corpora: reader.Corpora) -> dict[str, Edition]:
  """By name, what each of the corpora is now; of as_they_were, what it was.

  Raises:
    ValueError: a corpus has changed since it was opened.
  """
  if isinstance(corpora, Earlier):
    return dict(corpora.editions)
  found: dict[str, Edition] = {}
  for (name, directory), fingerprint in zip(
    corpora.directories.items(), corpora.fingerprints, strict=True
  ):
    manifest = reader.read_manifest(directory)
    if manifest['fingerprint'] != fingerprint:
      raise ValueError(f'corpus {directory} changed while it was opened: start again.')
    shards = manifest['splits']['train']['shards']
    found[name] = dict(
      fingerprint=fingerprint, num_shards=len(shards), digest=_digest(shards, len(shards))
    )
  return found


def continued(corpora: reader.Corpora, before: Mapping[str, Edition]) -> list[str]:
  """Names of the corpora that are what they were, with shards behind these or without."""
  found = []
  for name, edition in before.items():
    if name in corpora.names:
      manifest = reader.read_manifest(corpora.directories[name])
      shards = manifest['splits']['train']['shards']
      if _digest(shards, edition['num_shards']) == edition['digest']:
        found.append(name)
  return found


def _digest(shards: list[dict[str, Any]], number: int) -> str:
  """Of the content of the first shards; those without checksums are told by their sizes."""
  kept = shards[:number]
  return order_lib.digest([[shard['num_examples'], shard.get('sha256')] for shard in kept])


def as_they_were(
  directories: Mapping[str, epath.PathLike], before: Mapping[str, Edition]
) -> reader.Corpora:
  """The training split of corpora as they were.

  Args:
    directories: by name.
    before: of `editions`.

  Raises:
    ValueError: one is gone, or is another now.
  """
  whole = reader.Corpora(directories, 'train')
  lost = sorted(set(whole.names) - set(continued(whole, before)))
  if lost:
    paths = ', '.join(f'{name!r} ({whole.directories[name]})' for name in lost)
    raise ValueError(f'there is another corpus now in the place of {paths}')
  if whole.fingerprints == [before[name]['fingerprint'] for name in whole.names]:
    return whole
  return Earlier(whole, before)


class Earlier(reader.Corpora):
  """The first shards of each of some corpora: attributes and methods as of reader.Corpora.

  Args:
    whole: the corpora, which have grown.
    before: what they were, by name.
  """

  def __init__(self, whole: reader.Corpora, before: Mapping[str, Edition]):
    self.editions = {name: before[name] for name in whole.names}
    self.names, self.directories, self.remote = whole.names, whole.directories, whole.remote
    self.fingerprints = [self.editions[name]['fingerprint'] for name in whole.names]
    pairs = list(zip(self.fingerprints, whole.earlier, strict=True))
    self.earlier = [known[: known.index(own)] if own in known else known for own, known in pairs]
    self.sidecars, self.starts, self.corpus_starts = [], [0], [0]
    self.whole = whole
    rows = []
    for name, start in zip(whole.names, whole.corpus_starts[:-1], strict=True):
      first = whole.starts.index(start)
      for shard in range(first, first + self.editions[name]['num_shards']):
        self.sidecars.append(whole.sidecars[shard])
        rows.append(np.arange(whole.starts[shard], whole.starts[shard + 1]))
        self.starts.append(self.starts[-1] + len(rows[-1]))
      self.corpus_starts.append(self.starts[-1])
    self._rows = np.concatenate([np.zeros(0, np.int64), *rows])

  @functools.cached_property
  def columns(self) -> dict[str, np.ndarray]:
    """COLUMNS of the rows."""
    return {name: values[self._rows] for name, values in self.whole.columns.items()}

  @functools.cached_property
  def sizes(self) -> dict[str, np.ndarray]:
    """height and width of the rows."""
    return {name: values[self._rows] for name, values in self.whole.sizes.items()}

  def locate(self, row: int | np.integer) -> tuple[str, int]:
    """(shard's file of records, place in it) of a row."""
    return self.whole.locate(self._rows[row])

  def rows_of(self, shard: str) -> range:
    """The rows of a shard, by its file of records."""
    found = self.whole.rows_of(shard)
    start = int(np.searchsorted(self._rows, found.start))
    return range(start, start + len(found))

  def key(self, row: int | np.integer) -> str:
    """The row's key by its sidecar."""
    return self.whole.key(self._rows[row])
