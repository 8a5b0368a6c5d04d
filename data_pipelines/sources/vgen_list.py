"""VGen's lists: lines `file|||caption`, files relative to the list or to videos/, images/ there."""

from collections.abc import Iterator

from etils import epath

from data_pipelines.sources import raw

SEPARATOR = '|||'


class VGenList(raw.RowsSource):
  """One list, or a folder that holds lists; a list's name may tell the split."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if a text file here starts with `file|||caption`."""
    return bool(_lists(path))

  def shards(self) -> list[raw.Shard]:
    """Runs of lines of all lists."""
    shards = []
    for file in _lists(self.path):
      split = raw.split_of(file.name)
      shards += [raw.Shard(split, (rows,)) for rows in raw.split_rows(file, _line_ends(file))]
    return shards

  def listed(self, rows: raw.Rows) -> Iterator[raw.Listed]:
    """The files of a run of lines; empty lines are none."""
    folder = rows.file.parent
    split = raw.split_of(rows.file.name)
    for line in rows.text().splitlines():
      name, _, caption = (part.strip() for part in line.partition(SEPARATOR))
      if not name:
        continue
      roots = (folder, folder / 'videos', folder / 'images')
      file = next((root / name for root in roots if (root / name).exists()), folder / name)
      yield raw.Listed(split, name, file, caption)


def _line_ends(file: epath.Path) -> list[int]:
  """Bytes at the start and after each line; raises if a line is not `file|||caption`."""
  ends = [0]
  with file.open('rb') as stream:
    for number, data in enumerate(stream, 1):
      ends.append(ends[-1] + len(data))
      line = data.decode('utf-8', errors='replace').rstrip('\r\n')
      name, separator, _ = line.partition(SEPARATOR)
      if not line.strip():
        continue
      if not separator:
        raise ValueError(f'{file}:{number} is {line!r}; a line should be file{SEPARATOR}caption.')
      raw.media_of(name.strip())
  return ends


def _lists(path: epath.Path) -> list[epath.Path]:
  files = [path] if path.is_file() else sorted(path.glob('*.txt'))
  return [file for file in files if file.suffix == '.txt' and SEPARATOR in _first_line(file)]


def _first_line(file: epath.Path) -> str:
  with raw.open_text(file) as lines:
    return lines.readline()
