"""WebVid: results_*.csv beside videos/<page_dir>/<videoid>.mp4. Nothing is ever downloaded.

Two column orders are in use, of the 2M and of the 10M set, so columns are found by name. All are
strings: ids have leading zeros.
"""

import csv
import difflib
import pathlib

from data_pipelines.sources import raw

COLUMNS = ('videoid', 'page_dir', 'name')


def header(file: pathlib.Path) -> list[str]:
  """The first row of a CSV."""
  with file.open(newline='', encoding='utf-8', errors='replace') as lines:
    return next(csv.reader(lines), [])


class WebVid(raw.ListedSource):
  """A WebVid folder, or one CSV of it; the split is told by the CSV's name."""

  @staticmethod
  def matches(path: pathlib.Path) -> bool:
    """True if a CSV here has a videoid column."""
    return any('videoid' in header(file) for file in _csv_files(path))

  def listed(self) -> list[raw.Listed]:
    """All rows of all CSV files."""
    return [item for file in _csv_files(self.path) for item in _rows(file)]


def _csv_files(path):
  if path.is_file():
    return [path] if path.suffix == '.csv' else []
  return [file for file in sorted(path.glob('*.csv')) if 'videoid' in header(file)]


def _rows(file):
  columns = header(file)
  for name in COLUMNS:
    if name not in columns:
      near = difflib.get_close_matches(name, columns, n=1)
      hint = f'; rename {near[0]!r}?' if near else ''
      raise ValueError(f'{file} has columns {columns} but WebVid needs {name!r}{hint}')
  root = file.parent / 'videos' if (file.parent / 'videos').is_dir() else file.parent
  with file.open(newline='', encoding='utf-8', errors='replace') as lines:
    for row in csv.DictReader(lines):
      video = root / row['page_dir'] / f'{row["videoid"]}.mp4'
      key = f'{row["page_dir"]}/{row["videoid"]}'
      yield raw.Listed(raw.split_of(file.name), key, video, row['name'] or '')
