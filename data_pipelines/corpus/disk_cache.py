"""Bytes from a bucket kept on the local disk, up to a bound; processes of one machine share them.

A file each, named by what it holds, so that nothing in it can be old. What was used longest ago
goes first.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import tempfile

# Of the bound: what one process may add before it looks whether there is too much, and what is left
# then. Eight processes at once stay within it.
_LOOK_AFTER = 1 / 64
_LEFT = 7 / 8


@dataclasses.dataclass
class DiskCache:
  """A folder of values by name; picklable.

  Attributes:
    folder: on a local disk; made when something is put there.
    max_bytes: of all values.
  """

  folder: str
  max_bytes: int
  _num_added: int = 0

  @classmethod
  def at(cls, folder: str, max_bytes: int) -> 'DiskCache':
    """A cache in a folder that is made; raises ValueError if that cannot be."""
    try:
      pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
      tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
      raise ValueError(f'shard_cache={folder} cannot be written: {error.strerror}.') from error
    return cls(folder, max_bytes)

  def get(self, name: str) -> bytes | None:
    """The value, or None if it is not there (any more)."""
    path = self._path(name)
    try:
      data = path.read_bytes()
      os.utime(path)
    except OSError:
      return None
    return data

  def put(self, name: str, data: bytes) -> None:
    """Keeps a value; a disk that cannot take it is no error."""
    if len(data) > _LOOK_AFTER * self.max_bytes:
      return
    path = self._path(name)
    with contextlib.suppress(OSError):
      path.parent.mkdir(parents=True, exist_ok=True)
      descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix='.part')
      with os.fdopen(descriptor, 'wb') as file:
        file.write(data)
      os.replace(partial, path)
    self._num_added += len(data)
    if self._num_added > _LOOK_AFTER * self.max_bytes:
      self._num_added = 0
      self._make_room()

  def _path(self, name: str) -> pathlib.Path:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return pathlib.Path(self.folder, digest[:2], digest[2:])

  def _make_room(self) -> None:
    found = []
    for path in pathlib.Path(self.folder).glob('*/*'):
      with contextlib.suppress(FileNotFoundError):  # Another process makes room too.
        known = path.stat()
        found.append((known.st_mtime_ns, known.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= self.max_bytes * _LEFT:
      return
    for _, size, path in sorted(found):
      path.unlink(missing_ok=True)
      total -= size
      if total <= self.max_bytes * _LEFT:
        return
