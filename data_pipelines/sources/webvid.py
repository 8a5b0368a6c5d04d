"""WebVid: results_*.csv beside videos/<page_dir>/<videoid>.mp4. Nothing is ever downloaded.

Two column orders are in use, of the 2M and of the 10M set, so columns are found by name. All are
strings: ids have leading zeros.
"""

import array
from collections.abc import Iterator

from etils import epath

from data_pipelines.sources import columns, file_names, lists, raw, tables, text
from data_pipelines.sources import files as files_lib

COLUMNS = ('videoid', 'page_dir', 'name')


class WebVid(lists.RowsSource):
  """A WebVid folder, or one CSV of it; the split is told by the CSV's name."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if a CSV here has a column videoid or page_dir."""
    return bool(_csv_files(path))

  def shards(self) -> list[raw.Shard]:
    """Runs of rows of all CSV files."""
    shards = []
    for file in _csv_files(self.path):
      columns.require(file, _header(file)[0], COLUMNS, 'WebVid')
      split = file_names.split_of(file.name)
      runs = lists.split_rows(file, _row_ends(file), self.max_examples)
      shards += [raw.Shard(split, (rows,)) for rows in runs]
    return shards

  def listed(self, rows: lists.Rows) -> Iterator[lists.Listed | raw.Rejected]:
    """The videos of a run of rows."""
    file, root = rows.file, _root(rows.file)
    split = file_names.split_of(file.name)
    for row in tables.Csv(rows.lines(), *_header(file), rows.number):
      if row.fault:
        yield raw.Rejected(f'{file.name}:{row.number}', 'bad_row', row.fault)
        continue
      key = f'{row.values["page_dir"].strip()}/{row.values["videoid"].strip()}'
      name = file_names.below(f'{key.lstrip("/")}.mp4', root, self.follow_outside)
      if name is None:
        yield raw.Rejected(key, 'unsafe_name', f'{file.name}:{row.number} leads out of {root}')
      else:
        yield lists.Listed(split, key, root, name, row.values['name'])

  def names(self, rows: lists.Rows) -> Iterator[str]:
    """Of the videos."""
    folder = '' if _root(rows.file) == rows.file.parent else 'videos/'
    listed = (item for item in self.listed(rows) if isinstance(item, lists.Listed))
    return (folder + item.name for item in listed)

  def columns(self) -> dict[str, list[str]]:
    """Of the CSV files."""
    return {file.name: columns.csv_header(file)[0] for file in _csv_files(self.path)}


def _root(file: epath.Path) -> epath.Path:
  """The folder that a CSV's videos are in."""
  videos = file.parent / 'videos'
  return videos if videos.is_dir() else file.parent


def _csv_files(path: epath.Path) -> list[epath.Path]:
  if path.is_file():
    files = [path] if path.suffix.lower() == '.csv' else []
  else:
    files = files_lib.matching(path, '*.[cC][sS][vV]')
  # page_dir is WebVid's alone: without videoid beside it, the file is named in an error.
  return [file for file in files if {'videoid', 'page_dir'} & set(_header(file)[0])]


def _header(file: epath.Path) -> tuple[list[str], str]:
  """(names of the columns in lower case, delimiter)."""
  names, delimiter = columns.csv_header(file)
  return [name.lower() for name in names], delimiter


def _row_ends(file: epath.Path) -> list[tuple[int, int]]:
  """(byte, number of the next line) behind the header and behind each row; a row may span lines."""
  lines = text.Lines(file)
  ends = array.array('Q')  # Bytes behind each line.

  def recorded() -> Iterator[str]:
    for line in lines:
      ends.append(lines.position)
      yield line

  source = recorded()
  next(source, '')
  rows = tables.Csv(source, *_header(file))
  try:
    # A faulty row has read on behind its end: where that is, its number tells.
    return [(ends[0], 2), *((ends[row.end - 2], row.end) for row in rows)]
  except ValueError as error:
    raise ValueError(f'{file} cannot be read: {error}.') from error
