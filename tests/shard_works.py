"""Work on shards that ends in every way; found by name in any process."""

import ctypes
import errno
import os
import pathlib
import signal

import numpy as np

from data_pipelines.corpus import reader, retries


def double(item, folder):
  (folder / 'double').write_text(str(2 * item))
  return dict(double=2 * item, pid=os.getpid())


def refuse(item, folder):
  reader.read_manifest(folder)  # Raises ValueError for the user.


def lose_storage(item, folder):
  raise retries.StorageError('no answer in 120 s')


def fill_the_disk(item, folder):
  raise OSError(errno.ENOSPC, 'No space left on device')


def fail(item, folder):
  return np.zeros(2).reshape(3)


def hang(item, folder):
  ctypes.PyDLL(None).sleep(600)  # It sees no signal and reads no pipe.


class KillsItself:
  """Ends the process of one item, the first `times` times; counts all calls in a folder."""

  def __init__(self, folder, item, times):
    self.folder, self.item, self.times = pathlib.Path(folder), item, times

  def __call__(self, item, folder):
    number = len(list(self.folder.glob(f'{item}-*')))
    (self.folder / f'{item}-{number}').touch()
    if item == self.item and number < self.times:
      os.kill(os.getpid(), signal.SIGKILL)
    return dict(item=item, pid=os.getpid())


def under_way(parts):
  """(shard, process, name) of what is being written, or was when its worker was lost."""
  names = [path.name.removeprefix('partial-').split('-', 2) for path in parts.glob('partial-*')]
  return {(int(shard), int(pid), name) for shard, pid, name in names}


def parents():
  """{process id: its parent's}, but for those that are dead."""
  found = {}
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      state, parent = (path / 'stat').read_text().rpartition(')')[2].split()[:2]
    except OSError:
      continue
    if state not in 'ZX':
      found[int(path.name)] = int(parent)
  return found


def below(pid):
  """Process ids of all that a process has started, and those have."""
  found, all_parents = {pid}, parents()
  while more := {child for child, parent in all_parents.items() if parent in found} - found:
    found |= more
  return found - {pid}
