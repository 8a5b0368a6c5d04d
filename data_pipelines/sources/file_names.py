"""What the names of files tell: their media, their split, and whether they lead out of a folder."""

import pathlib
import posixpath
import unicodedata

from etils import epath

MEDIA_BY_SUFFIX = {
  **dict.fromkeys(
    (
      '.mp4', '.mov', '.m4v', '.mkv', '.webm', '.avi', '.mpg', '.mpeg', '.mpe', '.m1v', '.m2v',
      '.ts', '.m2ts', '.mts', '.wmv', '.asf', '.flv', '.f4v', '.ogv', '.3gp', '.3g2', '.vob',
      '.mxf', '.qt', '.dv', '.nut', '.y4m', '.ivf', '.m2t', '.ogm', '.divx', '.wtv', '.h264',
      '.264', '.h265', '.265', '.hevc',
    ),
    'video',
  ),
  **dict.fromkeys(
    (
      '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.webp', '.gif', '.bmp', '.dib', '.tif',
      '.tiff', '.avif', '.heic', '.heif', '.hif', '.mpo', '.pjpeg', '.pjp',
    ),
    'image',
  ),
}  # fmt: skip
SUFFIXES = f'read are {", ".join(MEDIA_BY_SUFFIX)}'


def media_of(name: str) -> str | None:
  """'video' or 'image', by the file's suffix; None if it is of neither."""
  return MEDIA_BY_SUFFIX.get(pathlib.PurePath(name).suffix.lower())


def is_litter(name: str) -> bool:
  """Whether a file is what macOS and Windows leave in folders and archives."""
  parts = pathlib.PurePosixPath(name).parts
  last = parts[-1] if parts else ''
  return (
    '__MACOSX' in parts
    or last.startswith('._')
    or last in ('.DS_Store', 'Thumbs.db', 'desktop.ini')
  )


def composed(name: str) -> str:
  """The name with accented letters as one character each (NFC): macOS lists them as two."""
  return name if name.isascii() else unicodedata.normalize('NFC', name)


def below(name: str, root: epath.Path, follow_outside: bool = False) -> str | None:
  """A listed name as a path relative to its list's folder, with slashes; None if it leads out.

  Args:
    name: as listed; backslashes part folders too.
    root: the folder. A name may begin with its path.
    follow_outside: whether a name that leads out is one like others.
  """
  name = name.strip().replace('\\', '/').removeprefix(f'{root}/')
  if '://' in name or name[1:3] == ':/':
    return None
  name = posixpath.normpath(name)
  if name in ('.', '..'):
    return None
  return None if leads_out(name) and not follow_outside else name


def leads_out(name: str) -> bool:
  """Whether a normal relative path is none below its folder."""
  return name.startswith(('/', '../'))


def split_of(name: str) -> str | None:
  """The split that a file or folder name tells, as in results_2M_val.csv; None if it tells none."""
  words = pathlib.PurePath(name).stem.lower().replace('-', '_').split('_')
  if {'val', 'validation', 'test'} & set(words):
    return 'validation'
  return 'train' if 'train' in words else None
