"""The files below a folder, on a disk or in a bucket, and which of them are media."""

import pathlib
from collections.abc import Collection, Iterator

from etils import epath

from data_pipelines.sources import file_names, raw

# Whole names, for notice_board.txt is a caption.
_DOCUMENTS = ('readme', 'license', 'licence', 'notice', 'changelog')


def walk(path: epath.Path) -> Iterator[str]:
  """Names of all files below a folder, relative to it; not of hidden folders, nor litter."""
  protocol = str(path).partition('://')[0] if '://' in str(path) else ''
  for folder, _, names in path.walk():
    if protocol and '://' not in str(folder):  # etils 1.15 loses it.
      folder = epath.Path(f'{protocol}://{str(folder).lstrip("/")}')
    below = folder.relative_to(path)
    if any(part.startswith('.') for part in below.parts):
      continue
    for name in names:
      if not file_names.is_litter((below / name).as_posix()):
        yield (below / name).as_posix()


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


def unlisted(path: epath.Path, listed: Collection[str]) -> list[raw.Rejected]:
  """Rejections of the media files below a folder that its list does not name.

  Args:
    path: the folder.
    listed: names relative to it.
  """
  names = sorted(name for name in walk(path) if file_names.media_of(name) and name not in listed)
  return [raw.Rejected(name, 'no_caption', 'no list names it') for name in names]
