"""Arrays that a child process fills: no copy is made, and memory is used again.

A block is leased as an array and free again once nobody holds that array or a part of it. So less
memory is touched anew than without child processes.
"""

import math
import mmap
import os
import sys
import threading
from collections.abc import Mapping

import numpy as np

Layout = dict[str, tuple[int, tuple[int, ...]]]  # Name -> (first byte, shape) of a uint8 array.
_ALIGNMENT = 64


class Batch(dict[str, np.ndarray]):
  """uint8 arrays by name, and where another process finds them.

  Args:
    path: of the block, for `Opened`.
    memory: uint8 (N,), all of the block.
    layout: where in it the arrays lie.

  Attributes:
    path, layout: as given.
    progress: int64 (1,), a number in the block that the two processes share.
  """

  def __init__(self, path: str, memory: np.ndarray, layout: Layout):
    super().__init__(_arrays(memory, layout))
    self.path = path
    self.layout = layout
    self.progress = _progress(memory)


class Memory:
  """Blocks of shared memory, for batches."""

  def __init__(self):
    self._blocks: list[_Block] = []
    self._lock = threading.Lock()

  def batch(self, shapes: Mapping[str, tuple[int, ...]]) -> Batch:
    """A batch of arrays of these shapes, not cleared."""
    layout: Layout = {}
    num_bytes = _ALIGNMENT  # First, the progress.
    for name, shape in shapes.items():
      layout[name] = (num_bytes, shape)
      num_bytes += -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
    block, memory = self.lease(num_bytes)
    return Batch(block.path, memory, layout)

  def lease(self, num_bytes: int) -> tuple['_Block', np.ndarray]:
    """(block, uint8 array of all of it): the block is taken as long as the array lives."""
    with self._lock:
      fits = [b for b in self._blocks if b.num_bytes >= num_bytes and b.is_free()]
      if not fits:
        fits = [_Block(num_bytes)]
        self._blocks += fits
      block = min(fits, key=lambda block: block.num_bytes)
      return block, block.memory[:]


class Opened:
  """The other process's side: maps each block once."""

  def __init__(self):
    self._memory: dict[str, np.ndarray] = {}

  def batch(self, path: str, layout: Layout) -> Batch:
    """The batch at a path, to be filled."""
    if path not in self._memory:
      with open(path, 'r+b') as file:
        self._memory[path] = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
    return Batch(path, self._memory[path], layout)


class _Block:
  """Anonymous memory that another process opens by its path."""

  def __init__(self, num_bytes: int):
    self.num_bytes = num_bytes
    self._file = os.fdopen(os.memfd_create('batch'), 'r+b')
    self._file.truncate(num_bytes)
    self.path = f'/proc/{os.getpid()}/fd/{self._file.fileno()}'
    self.memory = np.frombuffer(mmap.mmap(self._file.fileno(), num_bytes), np.uint8)
    self._refcount = sys.getrefcount(self.memory)

  def is_free(self) -> bool:
    # Every array in the block refers to `memory`, numpy sees to that, and so does who holds one.
    return sys.getrefcount(self.memory) == self._refcount


def _arrays(memory: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
  return {
    name: memory[start : start + math.prod(shape)].reshape(shape)
    for name, (start, shape) in layout.items()
  }


def _progress(memory: np.ndarray) -> np.ndarray:
  return memory[:8].view(np.int64)
