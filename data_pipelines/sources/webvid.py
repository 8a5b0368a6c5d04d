"""WebVid: results_*.csv beside videos/<page_dir>/<videoid>.mp4. Nothing is ever downloaded.

Two column orders are in use, of the 2M and of the 10M set, so columns are found by name. All are
strings: ids have leading zeros.
"""

import csv
import io
from collections.abc import Iterator

from etils import epath

from data_pipelines.sources import columns, raw

COLUMNS = ('videoid', 'page_dir', 'name')


class WebVid(raw.RowsSource):
  """A WebVid folder, or one CSV of it; the split is told by the CSV's name."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if a CSV here has a videoid column."""
    return any('videoid' in columns.csv_header(file) for file in _csv_files(path))

  def shards(self) -> list[raw.Shard]:
    """Runs of rows of all CSV files."""
    shards = []
    for file in _csv_files(self.path):
      columns.require(file, columns.csv_header(file), COLUMNS, 'WebVid')
      split = raw.split_of(file.name)
      shards += [raw.Shard(split, (rows,)) for rows in raw.split_rows(file, _row_ends(file))]
    return shards

  def listed(self, rows: raw.Rows) -> Iterator[raw.Listed]:
    """The videos of a run of rows."""
    file = rows.file
    root = file.parent / 'videos' if (file.parent / 'videos').is_dir() else file.parent
    split = raw.split_of(file.name)
    for row in csv.DictReader(io.StringIO(rows.text(), newline=''), columns.csv_header(file)):
      video = root / row['page_dir'] / f'{row["videoid"]}.mp4'
      yield raw.Listed(split, f'{row["page_dir"]}/{row["videoid"]}', video, row['name'] or '')

  def columns(self) -> dict[str, list[str]]:
    """Of the CSV files."""
    return {file.name: columns.csv_header(file) for file in _csv_files(self.path)}


def _csv_files(path: epath.Path) -> list[epath.Path]:
  if path.is_file():
    return [path] if path.suffix == '.csv' else []
  return [file for file in sorted(path.glob('*.csv')) if 'videoid' in columns.csv_header(file)]


def _row_ends(file: epath.Path) -> list[int]:
  """Bytes after the header and after each row; a row may span lines."""
  consumed = 0

  def lines(stream):
    nonlocal consumed
    for line in stream:
      consumed += len(line)
      yield line.decode('utf-8', errors='replace')

  ends = []
  with file.open('rb') as stream:
    try:
      for _ in csv.reader(lines(stream)):
        ends.append(consumed)
    except csv.Error as error:
      raise ValueError(f'{file}: row {len(ends)} is not CSV ({error}): is a quote open?') from error
  return ends
