"""Contact sheets of the page: which rows are shown for what, with their frames."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import progress
from data_pipelines.corpus import schema, sidecars
from data_pipelines.index import table as table_lib
from data_pipelines.report import counts
from data_pipelines.report import strips as strips_lib

SEEN_HEIGHT = 160  # Pixels: words and faces can be made out.
# What detectors fill: title, and the columns, of which the first says how much there is.
SEEN = (
  ('text', ('text_area', 'text', 'text_confidence')),
  ('faces', ('face_area', 'faces')),
  ('people', ('people_area', 'people')),
)
Shown = tuple[int, int | None]  # (row, its shot; None for the one that stands for the row).


class Gallery:
  """Draws rows of corpora with what the sidecars say of them; each once.

  Args:
    table: of the corpora.
    strips: of the same.
  """

  def __init__(self, table: sidecars.Sidecars, strips: strips_lib.Strips):
    self.table = table
    self.strips = strips
    self._drawn: dict[tuple[int, int | None, int], dict] = {}

  def __call__(self, shown: Sequence[Shown], height: int = strips_lib.HEIGHT) -> list[dict]:
    """The sidecars' columns of each, with what Strips adds.

    Args:
      shown: rows and shots.
      height: of the pictures, pixels.
    """
    details = counts.details(self.table, [row for row, _ in shown])
    for row, shot in shown:
      if (row, shot, height) not in self._drawn:
        told = of_shot(details[row], shot)
        self._drawn[row, shot, height] = self.strips(row, told, height=height)
    return [self._drawn[row, shot, height] for row, shot in shown]


def of_shot(details: Mapping[str, Any], shot: int | None) -> dict[str, Any]:
  """The details of a row with those of one of its shots in their place."""
  spans = [span for span in details.get('spans') or () if span['span_id'] == shot]
  return dict(details) | (spans[0] if spans else {})


def of_media(gallery: Gallery, condition: str, num_examples: int) -> list[dict]:
  """Sheets (title, examples) of each kind of media of a condition, SQL."""
  found = []
  for media in schema.MEDIA:
    where = f"{condition} AND media = '{media}'"
    found.append((f'{media}s', counts.some_rows(gallery.table, where, num_examples)))
  return _sheets(gallery, found)


def of_rules(gallery: Gallery, num_examples: int) -> list[dict]:
  """Sheets of what each rule of curate drops."""
  if 'reject' not in gallery.table.columns:
    return []
  rules = gallery.table.rows('SELECT DISTINCT unnest(reject) AS rule FROM sidecars ORDER BY rule')
  found = []
  for rule in (row['rule'] for row in rules):
    condition = f"list_contains(reject, '{rule}')"
    found.append((rule, counts.some_rows(gallery.table, condition, num_examples)))
  return _sheets(gallery, found)


def of_cells(
  gallery: Gallery, manifest: Mapping, index: table_lib.Table, num_examples: int
) -> dict[str, list[dict]]:
  """Name of each cell of an index -> examples, evenly spread, each by its own shot."""
  found = {}
  cells = manifest['cells'] if num_examples else []
  for cell in progress.over(cells, len(cells), 'cell', 'drawing'):
    start, stop = cell['places']
    step = max(1, (stop - start) // num_examples)
    places = range(start, stop, step)[:num_examples]
    shown = [(index.row(place), index.span(place) if 'span' in index.columns else None)
             for place in places]  # fmt: skip
    found[cell['name']] = gallery(shown)
  return found


def of_detectors(gallery: Gallery, num_examples: int) -> list[dict]:
  """Sheets of where detectors saw most: the frames that they look at, and what they say of them."""
  found = []
  for title, (measured, *_) in SEEN:
    if measured not in gallery.table.columns:
      continue
    rows = gallery.table.rows(
      f'SELECT row_number_ FROM sidecars WHERE {measured} > 0 '
      f'ORDER BY {measured} DESC, row_number_ LIMIT {num_examples}'
    )
    found.append((title, [row['row_number_'] for row in rows]))
  return _sheets(gallery, found, SEEN_HEIGHT)


def _sheets(
  gallery: Gallery,
  found: Sequence[tuple[str, Sequence[int] | np.ndarray]],
  height: int = strips_lib.HEIGHT,
) -> list[dict]:
  found = [(title, rows) for title, rows in found if len(rows)]
  return [
    dict(title=title, examples=gallery([(int(row), None) for row in rows], height))
    for title, rows in progress.over(found, len(found), 'sheet', 'drawing')
  ]
