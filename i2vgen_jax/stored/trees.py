"""Trees of arrays in folders of Orbax, with digests that are checked when they are read."""

import dataclasses
import errno
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from data_pipelines.corpus import retries
from i2vgen_jax.parallel import sharding
from i2vgen_jax.process import errors, run_folder
from i2vgen_jax.process.paths import absolute
from i2vgen_jax.stored import digests

# How much of a tree is read or written at once, if no single tensor is larger.
MAX_BYTES_IN_FLIGHT = 2**29
# Name of the tree within its folder.
ITEM = 'state'
# Said of storage that does not answer now, and of devices that are full: nothing is damaged.
AWAY = re.compile(
  r'UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED'
  r'|[Cc]onnection|timed out'
)


class DamagedError(ValueError):
  """What is stored is not what was written; says where and what."""


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tree on disk or in a bucket, of which only the metadata has been read.

  Attributes:
    directory: of the tree.
    tree: metadata of its arrays, with `shape` and `dtype`; nested dicts.
    data: what was stored beside it.
    digests: of its arrays; None if it was written before there were any.
  """

  directory: epath.Path
  tree: dict[str, Any]
  data: Any
  digests: dict[str, str] | None

  def load(self, abstract: Mapping[str, Any]) -> dict[str, Any]:
    """Top branches, placed by the shardings in `abstract`, which has no other branches.

    Raises:
      ValueError: a tensor is missing, unexpected or of another shape or type; all are named.
      DamagedError: they cannot be read or are not what was written, seen by any host.
    """
    check_tree(
      {name: branch for name, branch in self.tree.items() if name in abstract},
      abstract,
      str(self.directory),
    )
    loaded, error = {}, None
    try:
      loaded = self._read(abstract)
    except Exception as caught:  # Of any type: Orbax and TensorStore meet damage anywhere.
      error = caught
    _raise_alike(error, self.directory)
    if self.digests is None:
      logging.warning(
        '%s is of an earlier version, without digests: damage is not seen.', self.directory
      )
    else:
      found = digests.of_tree(loaded)
      changed = [name for name, digest in found.items() if digest != self.digests[name]]
      if changed:
        error = DamagedError(f'{self.directory} is damaged: not as written: {_listed(changed)}.')
      _raise_alike(error, self.directory)
    return loaded

  def _read(self, abstract: Mapping[str, Any]) -> dict[str, Any]:
    skipped = {
      name: jax.tree.map(lambda _: ocp.PLACEHOLDER, branch)
      for name, branch in self.tree.items()
      if name not in abstract
    }
    context = _sparing(abstract)
    if jax.process_count() > 1:
      # By itself a host waits for all others, also for one that has met an error and left.
      own = jax.process_index()
      context.multiprocessing.primary_host = own
      context.multiprocessing.active_processes = {own}
      context.multiprocessing.barrier_sync_key_prefix = f'process_{own}'
    with context:
      loaded: Any = ocp.load_checkpointables(self.directory, {ITEM: {**skipped, **abstract}})
    return {name: loaded[ITEM][name] for name in abstract}


def stored(directory: epath.PathLike, place: int | str = '') -> Stored:
  """Reads the metadata of a tree; all hosts call it together.

  Args:
    directory: of the tree.
    place: as it was saved with.

  Raises:
    DamagedError: it cannot be read, or is not what was written there.
  """
  directory = absolute(directory)
  result, error = None, None
  try:
    result = _read_metadata(directory, place)
  except Exception as caught:  # As in `load`.
    error = caught
  _raise_alike(error, directory)
  assert result is not None
  return result


def _read_metadata(directory: epath.Path, place: int | str) -> Stored:
  if not (directory / run_folder.COMMITTED).exists():
    raise DamagedError(f'{directory} is incomplete: it has no {run_folder.COMMITTED}.')
  metadata = ocp.checkpointables_metadata(directory)
  tree: Any = metadata.metadata[ITEM]
  custom: Any = metadata.custom_metadata
  data, of_tree = digests.unseal(place, custom)
  if of_tree is not None:
    found = {name: digests.signature(leaf) for name, leaf in sharding.by_path(tree).items()}
    written = {name: digest.split()[0] for name, digest in of_tree.items()}
    changed = sorted(dict(found.items() ^ written.items()))
    if changed:
      raise ValueError(f'its list of tensors is not the one that was written: {_listed(changed)}')
  return Stored(directory, tree, data, of_tree)


def _raise_alike(error: Exception | None, directory: epath.Path) -> None:
  """Raises on all hosts if one has an error: damage as DamagedError, else the host's own."""
  damaged = error is not None and _is_damage(error)
  if jax.process_count() > 1:
    state = 0 if error is None else 1 if damaged else 2
    states = multihost_utils.process_allgather(np.int32(state)).reshape(-1).tolist()
    if error is None and any(states):
      worst = states.index(max(states))
      if max(states) == 2:
        raise ConnectionError(f'{directory} is unavailable to process {worst}; see its log.')
      raise DamagedError(f'{directory} is damaged: process {worst} has met it, see its log.')
    if damaged and max(states) == 2:
      raise ConnectionError(f'{directory} is unavailable to another process.') from error
  if isinstance(error, DamagedError) or (error is not None and not damaged):
    raise error
  if error is not None:
    said = str(error).strip().splitlines() or ['']
    kind = '' if type(error) is ValueError else f'{type(error).__name__}: '
    raise DamagedError(f'{directory} is damaged: {kind}{said[0][:300]}') from error


def _is_damage(error: Exception) -> bool:
  """Whether another attempt would meet the error again."""
  told = errors.os_error(error)
  if told is not error and retries.is_transient(told):
    return False
  if isinstance(error, OSError) and not isinstance(
    error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)
  ):
    return False
  return not isinstance(error, MemoryError) and not AWAY.search(str(error))


def _listed(names: list[str]) -> str:
  """The first ones, and how many more."""
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more


def check_tree(found: Any, expected: Any, what: str) -> None:
  """Compares two trees of shapes.

  Args:
    found: tree of what was read.
    expected: tree of the config's model.
    what: names `found` in the error.

  Raises:
    ValueError: a tensor is missing, unexpected or of another shape or type; the first 20 are named.
  """
  found, expected = (
    {
      name: (tuple(leaf.shape), np.dtype(leaf.dtype))
      for name, leaf in sharding.by_path(tree).items()
    }
    for tree in (found, expected)
  )
  problems = [f'missing {name}' for name in expected if name not in found]
  problems += [f'unexpected {name}' for name in found if name not in expected]
  problems += [
    f'{name}: {found[name][1]}{list(found[name][0])} where the config makes '
    f'{expected[name][1]}{list(expected[name][0])}'
    for name in expected
    if name in found and found[name] != expected[name]
  ]
  if problems:
    listed = '\n  '.join(
      problems[:20] + [f'... and {len(problems) - 20} more'] * (len(problems) > 20)
    )
    raise ValueError(f'{what} does not fit the model of this config:\n  {listed}')


def save_tree(directory: epath.PathLike, tree: dict[str, Any]) -> None:
  """Writes a tree of arrays with Orbax, once."""
  with _sparing(tree):
    ocp.save(
      absolute(directory),
      tree,  # pyrefly: ignore[bad-argument-type]  # Orbax declares a tree as one leaf.
      custom_metadata=digests.seal('', None, digests.of_tree(tree)),
    )


def load_tree(
  directory: epath.PathLike, abstract_tree: dict[str, Any], fix: str, partly: bool = False
) -> dict[str, Any]:
  """Reads what `save_tree` wrote, onto the shardings of `abstract_tree`.

  Args:
    directory: of the tree.
    abstract_tree: ShapeDtypeStructs with shardings.
    fix: what to do if it is damaged, for the error.
    partly: leave out the top branches that the abstract tree lacks.

  Raises:
    ValueError: as `Stored.load`.
    DamagedError: as `Stored.load`.
    FileNotFoundError: there is no such folder.
  """
  if not absolute(directory).exists():
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
  try:
    found = stored(directory)
    if not partly:
      check_tree(found.tree, abstract_tree, str(found.directory))
    return found.load(abstract_tree)
  except DamagedError as error:
    raise DamagedError(f'{error} {fix}') from error


def _sparing(tree: Any) -> ocp.Context:
  """A context in which Orbax moves a part of the tree at a time; by default it copies it whole."""
  context = ocp.Context()
  largest = max(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
  for name in ('write', 'read', 'transfer'):
    setattr(context.memory, f'{name}_concurrent_bytes', max(largest, MAX_BYTES_IN_FLIGHT))
  return context
