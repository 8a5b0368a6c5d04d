"""VGen's lists: lines `file|||caption`, files relative to the list or to videos/, images/ there."""

import posixpath
from collections.abc import Iterator

from etils import epath

from data_pipelines.sources import file_names, lists, raw, text
from data_pipelines.sources import files as files_lib

SEPARATOR = '|||'
ROOTS = ('', 'videos', 'images')  # Beside the list.


class VGenList(lists.RowsSource):
  """One list, or a folder that holds lists; a list's name may tell the split."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if a text file here starts with `file|||caption`."""
    return bool(_lists(path))

  def shards(self) -> list[raw.Shard]:
    """Runs of lines of all lists."""
    shards = []
    for file in _lists(self.path):
      split = file_names.split_of(file.name)
      runs = lists.split_rows(file, _line_ends(file), self.max_examples)
      shards += [raw.Shard(split, (rows,)) for rows in runs]
    return shards

  def listed(self, rows: lists.Rows) -> Iterator[lists.Listed | raw.Rejected]:
    """The files of a run of lines; empty lines are none."""
    folder = rows.file.parent
    split = file_names.split_of(rows.file.name)
    for number, line in enumerate(rows.lines(), rows.number):
      if not line.strip():
        continue
      name, separator, caption = (part.strip() for part in line.partition(SEPARATOR))
      where = f'{rows.file.name}:{number}'
      path = file_names.below(name, folder, self.follow_outside) if name else None
      if not separator or not name:
        detail = f'{line.rstrip()!r}; a line should be file{SEPARATOR}caption'
        yield raw.Rejected(where, 'bad_row', detail)
      elif path is None:
        yield raw.Rejected(name, 'unsafe_name', f'{where} leads out of {folder}')
      else:
        roots = (folder / root for root in ROOTS)
        root = next((root for root in roots if files_lib.is_there(root, path)), folder)
        yield lists.Listed(split, name, root, path, caption)

  def names(self, rows: lists.Rows) -> Iterator[str]:
    """Of the files, in each of the folders where they may be."""
    for line in rows.lines():
      name = line.partition(SEPARATOR)[0].strip()
      path = file_names.below(name, rows.file.parent, self.follow_outside) if name else None
      yield from (posixpath.join(root, path) for root in ROOTS if path)


def _line_ends(file: epath.Path) -> list[tuple[int, int]]:
  """(byte, number of the next line) at the start and behind each line that is not empty."""
  lines = text.Lines(file)
  ends = [(lines.position, 1)]
  try:
    ends += [(lines.position, i) for i, line in enumerate(lines, 2) if line.strip()]
  except ValueError as error:
    raise ValueError(f'{file} cannot be read: {error}.') from error
  return ends


def _lists(path: epath.Path) -> list[epath.Path]:
  files = [path] if path.is_file() else files_lib.matching(path, '*.[tT][xX][tT]')
  return [file for file in files if file.suffix.lower() == '.txt' and _is_list(file)]


def _is_list(file: epath.Path) -> bool:
  """By its first line that is not empty."""
  if file_names.is_litter(file.name):
    return False
  try:
    line = next((line for line in text.Lines(file) if line.strip()), '')
  except ValueError:  # Captions of one example may be anything: its reader rejects that.
    return False
  return SEPARATOR in line
