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
