"""VGen's lists: lines `file|||caption`, files relative to the list or to videos/, images/ there."""

import pathlib

from data_pipelines.sources import raw

SEPARATOR = '|||'


class VGenList(raw.ListedSource):
  """One list, or a folder that holds lists; a list's name may tell the split."""

  @staticmethod
  def matches(path: pathlib.Path) -> bool:
    """True if a text file here starts with `file|||caption`."""
    return bool(_lists(path))

  def listed(self) -> list[raw.Listed]:
    """All lines of all lists."""
    return [item for file in _lists(self.path) for item in read_list(file)]


def read_list(file: pathlib.Path) -> list[raw.Listed]:
  """The lines of one list."""
  roots = (file.parent, file.parent / 'videos', file.parent / 'images')
  listed = []
  lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
  for number, line in enumerate(lines, 1):
    name, separator, caption = line.partition(SEPARATOR)
    if not line.strip():
      continue
    if not separator:
      raise ValueError(f'{file}:{number} is {line!r}; a line should be file{SEPARATOR}caption.')
    raw.media_of(name.strip())
    found = [root / name.strip() for root in roots if (root / name.strip()).exists()]
    media_file = (found or [file.parent / name.strip()])[0]
    listed.append(raw.Listed(raw.split_of(file.name), name.strip(), media_file, caption.strip()))
  return listed


def _lists(path):
  files = [path] if path.is_file() else sorted(path.glob('*.txt'))
  return [file for file in files if file.suffix == '.txt' and SEPARATOR in _first_line(file)]


def _first_line(file):
  with file.open(encoding='utf-8', errors='replace') as lines:
    return lines.readline()
