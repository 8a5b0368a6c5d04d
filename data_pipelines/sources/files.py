"""The files below a folder, on a disk or in a bucket, and which of them are media."""

import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NoReturn

import fsspec
import numpy as np
from etils import epath

from data_pipelines.media.errors import DecodeError
from data_pipelines.sources import file_names

# Whole names, for notice_board.txt is a caption.
_DOCUMENTS = ('readme', 'license', 'licence', 'notice', 'changelog')


def walk(path: epath.Path) -> Iterator[str]:
  """Names of all files below a folder, relative to it; not of hidden folders, nor litter.

  Raises:
    OSError: a folder cannot be listed.
  """
  for below, names in _folders(path):
    if any(part.startswith('.') for part in below.parts):
      continue
    for name in names:
      if not file_names.is_litter((below / name).as_posix()):
        yield (below / name).as_posix()


def _folders(path: epath.Path) -> Iterator[tuple[pathlib.PurePath, Iterable[str]]]:
  """All folders below one and itself, relative to it, each with the names of its files."""
  if '://' not in str(path):
    for folder, _, names in os.walk(path, onerror=_fail):
      yield pathlib.PurePath(folder).relative_to(path), names
    return
  # etils 1.15 calls s3fs with an argument that it has not.
  filesystem, root = fsspec.core.url_to_fs(str(path))
  for folder, _, names in filesystem.walk(root, on_error='raise'):
    yield pathlib.PurePosixPath(folder).relative_to(root), names


def _fail(error: OSError) -> NoReturn:
  raise error


def matching(path: epath.Path, pattern: str) -> list[epath.Path]:
  """The files that a glob pattern finds in a folder, sorted; not litter.

  A folder may be called as a file is, such as 00000.tar where that was unpacked. In a bucket, where
  each look costs a request and the folders are but names, they are not looked for.

  Args:
    path: the folder.
    pattern: relative to it.
  """
  found = [file for file in sorted(path.glob(pattern)) if not file_names.is_litter(file.name)]
  return found if '://' in str(path) else [file for file in found if not file.is_dir()]


def has_media(path: epath.Path) -> bool:
  """Whether there is any media file below a folder."""
  return any(file_names.media_of(name) for name in walk(path))


def is_document(name: str) -> bool:
  """Whether a file is no part of a corpus: hidden, or a text about it."""
  file = pathlib.PurePosixPath(name)
  about = file.stem.lower() in _DOCUMENTS and not file_names.media_of(name)
  return file.name.startswith('.') or file.suffix.lower() == '.md' or about


def unlisted(path: epath.Path, listed: Iterable[str]) -> Iterator[str]:
  """Names of the media files below a folder that its lists do not name, relative to it.

  Args:
    path: the folder; one that is a file has none.
    listed: names relative to it; of each, 8 bytes are in memory.
  """
  hashes = np.sort(np.fromiter((hash(file_names.composed(name)) for name in listed), np.int64))
  for name in walk(path) if path.is_dir() else ():
    if file_names.media_of(name):
      place = np.searchsorted(hashes, found := hash(file_names.composed(name)))
      if place == len(hashes) or hashes[place] != found:
        yield name


def on_disk(root: epath.Path, name: str) -> epath.Path:
  """The file of that name, in whichever form of Unicode its accents are spelt there.

  Args:
    root: a folder.
    name: relative to it, as a list has it.
  Raises:
    DecodeError: 'ambiguous_name' if there are two such files.
  """
  if name.isascii():
    return root / name
  found = [root]
  for part in pathlib.PurePosixPath(name).parts:
    key = file_names.composed(part)
    spelt = [(folder, _composed(folder).get(key, [part])) for folder in found]
    found = [folder / spelling for folder, spellings in spelt for spelling in spellings]
  found = [file for file in found if file.exists()]
  if len(found) > 1:
    raise DecodeError('ambiguous_name', f'{root} has {len(found)} files {name!r}')
  return found[0] if found else root / name


def is_link_out(file: epath.Path, root: epath.Path) -> bool:
  """Whether a file below a folder is a link, or below one, that leads out of it."""
  if '://' in str(file):
    return False
  return not pathlib.Path(file).resolve().is_relative_to(pathlib.Path(root).resolve())


def is_there(root: epath.Path, name: str) -> bool:
  """Whether there is such a file, or more than one; see `on_disk`."""
  try:
    return on_disk(root, name).exists()
  except DecodeError:
    return True


@functools.lru_cache(maxsize=64)
def _composed(folder: epath.Path) -> dict[str, list[str]]:
  """The names in a folder that are not ASCII, by their composed form."""
  found: dict[str, list[str]] = {}
  for file in sorted(folder.iterdir()) if folder.is_dir() else ():
    if not file.name.isascii():
      found.setdefault(file_names.composed(file.name), []).append(file.name)
  return found
