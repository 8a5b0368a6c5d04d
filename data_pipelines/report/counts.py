"""What the report counts, by SQL on the sidecars: nothing here grows with the corpus."""

import collections
import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from data_pipelines.corpus import aspects, buckets, reader, schema, sidecars, storage
from data_pipelines.report import glossary

BINS = 32
BUCKETS = ((16, 8), (16, 16), (32, 8), (32, 16))  # Frames and frames per second, as in VGen.
SIDES = (0, 256, 360, 512, 704)  # Pixels of the shorter side.
MAX_REJECTED = 5  # Examples that are shown for each reason.
TAILS = 0.005  # The outermost bins hold what lies beyond these quantiles.


def populations(columns: set[str], in_index: str = '') -> dict[str, str]:
  """SQL conditions by the name of what they leave.

  Args:
    columns: of the sidecars.
    in_index: the condition of what an index has, or ''.
  """
  found = {'ingested': 'TRUE'}
  if 'keep' in columns:
    found['kept by curate'] = 'coalesce(keep, true)'
  if in_index:
    found['in the index'] = in_index
  return found


def histograms(table: sidecars.Sidecars, conditions: Mapping[str, str]) -> list[dict]:
  """Of each of the glossary's measures that the sidecars have.

  Returns:
    measure, low, high (of the bins), num_unknown, and counts: BINS numbers per population.
  """
  found = []
  for measure in measures(table):
    histogram = _histogram(table, measure.sql, conditions)
    if histogram:
      found.append(dict(histogram, measure=measure))
  return found


def measures(table: sidecars.Sidecars) -> list[glossary.Measure]:
  """Those of the glossary that the sidecars have."""
  return [measure for measure in glossary.MEASURES if measure.column in table.columns]


def _histogram(table: sidecars.Sidecars, sql: str, conditions: Mapping[str, str]) -> dict | None:
  value = f'({sql})::DOUBLE'
  [found] = table.rows(
    f'SELECT quantile_disc(x, {TAILS}) AS low, quantile_disc(x, {1 - TAILS}) AS high, '
    'count(*) AS num, count(x) AS known '
    f'FROM (SELECT CASE WHEN isfinite({value}) THEN {value} END AS x FROM sidecars)'
  )
  if not found['known']:
    return None
  low, width = found['low'], (found['high'] - found['low']) / BINS or 1 / BINS
  rows = table.rows(
    f'SELECT least(greatest(floor(({value} - {low!r}) / {width!r}), 0), {BINS - 1})::INTEGER '
    f'AS bin, {_sums(conditions)} FROM sidecars WHERE isfinite({value}) GROUP BY bin'
  )
  counts = {name: [0] * BINS for name in conditions}
  for row in rows:
    for name, count in zip(conditions, _counts(row), strict=True):
      counts[name][row['bin']] = count
  num_unknown = found['num'] - found['known']
  return dict(low=low, high=low + BINS * width, num_unknown=num_unknown, counts=counts)


def _sums(conditions: Mapping[Any, str]) -> str:
  counted = (f'count(*) FILTER (WHERE {condition})' for condition in conditions.values())
  return ', '.join(f'{count} AS n{i}' for i, count in enumerate(counted))


def _counts(row: Mapping[str, Any]) -> list[int]:
  return [value for name, value in row.items() if name.startswith('n') and name[1:].isdigit()]


def sizes(table: sidecars.Sidecars, conditions: Mapping[str, str]) -> list[dict]:
  """Per population: name, num_rows, hours of video, gigabytes."""
  return [
    dict(
      name=name,
      **table.rows(
        'SELECT count(*) AS num_rows, coalesce(sum(duration), 0) / 3600 AS hours, '
        f'coalesce(sum(num_bytes), 0) / 1e9 AS gigabytes FROM sidecars WHERE {condition}'
      )[0],
    )
    for name, condition in conditions.items()
  ]


def eligibility(table: sidecars.Sidecars, condition: str) -> dict:
  """How many rows fill the buckets of VGen's mixture: sides (pixels), and rows of name, counts."""
  length = 'duration'
  if 'span_end' in table.columns:
    length = 'coalesce(span_end - span_start, duration)'
  kinds = {'an image': "media = 'image'"}
  for frames, fps in BUCKETS:
    bucket = buckets.Bucket('any', frames, 8, 8, fps, 1)
    kinds[f'{frames} frames at {fps} per second'] = (
      f"media = 'video' AND {length} >= {bucket.span - 1e-3} "
      f'AND {table.rate} >= {fps * (1 - buckets.FPS_TOLERANCE)}'
    )
  each = [
    f'({kind}) AND least(height, width) >= {side}' for kind in kinds.values() for side in SIDES
  ]
  [found] = table.rows(f'SELECT {_sums(dict(enumerate(each)))} FROM sidecars WHERE {condition}')
  numbers = _counts(found)
  rows = [
    dict(name=name, counts=numbers[i * len(SIDES) : (i + 1) * len(SIDES)])
    for i, name in enumerate(kinds)
  ]
  return dict(sides=list(SIDES), rows=rows)


def by_aspect(table: sidecars.Sidecars, condition: str, framing: aspects.Framing) -> dict[str, Any]:
  """How many rows each aspect takes, and each bound leaves out: names, bounds, and rows of name
  (media) and counts.

  Args:
    table: of the corpora.
    condition: SQL on its columns.
    framing: the aspects and bounds.
  """
  found = aspects.count_by_media(framing, table.sizes([condition]), schema.MEDIA)
  rows = [dict(name=media, counts=each) for media, each in found.items()]
  bounds = dict(max_crop=framing.max_crop, max_enlarge=framing.max_enlarge)
  return dict(names=[*map(aspects.name_of, framing.sizes), *bounds], bounds=bounds, rows=rows)


def licences(table: sidecars.Sidecars, conditions: Mapping[str, str]) -> list[dict]:
  """Name, media and counts (per population) of each licence that the sources tell."""
  rows = table.rows(
    f"SELECT coalesce(nullif(trim(license), ''), 'not told') AS name, media, {_sums(conditions)} "
    'FROM sidecars GROUP BY ALL ORDER BY n0 DESC, name, media'
  )
  return [dict(name=row['name'], media=row['media'], counts=_counts(row)) for row in rows]


def rejections(directories: Mapping[str, str]) -> list[dict]:
  """What ingest left out: reason, count, and some lines (key, detail), the commonest first."""
  counts: collections.Counter = collections.Counter()
  lines: dict[str, list] = collections.defaultdict(list)
  for directory in map(epath.Path, directories.values()):
    counts.update(reader.read_manifest(directory)['rejected'])
    for path in sorted(directory.glob('rejected/*.jsonl')):
      for bad in map(json.loads, path.read_text().splitlines()):
        if len(lines[bad['reason']]) < MAX_REJECTED:
          lines[bad['reason']].append(bad)
  return [
    dict(reason=reason, count=count, examples=lines[reason])
    for reason, count in counts.most_common()
  ]


def stage_manifest(directory: str, stage: str) -> dict | None:
  """What a stage says of itself; None if it has not run to its end."""
  path = epath.Path(directory) / 'sidecar' / stage / 'manifest.json'
  return storage.read_json(path) if path.exists() else None


def some_rows(table: sidecars.Sidecars, condition: str, count: int) -> list[int]:
  """Numbers of some rows of a condition, in no order that a source has; the same every time.

  Args:
    table: of the corpora.
    condition: SQL on its columns.
    count: at most so many.
  """
  rows = table.rows(
    f'SELECT row_number_ FROM sidecars WHERE {condition} '
    f'ORDER BY hash(row_number_), row_number_ LIMIT {count}'
  )
  return [row['row_number_'] for row in rows]


def details(table: sidecars.Sidecars, rows: list[int]) -> dict[int, dict]:
  """The sidecars' columns by row, as far as a page can show them."""
  if not rows:
    return {}
  wanted = dict.fromkeys((*schema.SIDECAR.names, *schema.CURATE.names, *schema.SCORE.names))
  shown = (table.columns & set(wanted)) - set(schema.PRINTS)
  columns = ', '.join(f'"{name}"' for name in wanted if name in shown)
  listed = ', '.join(str(row) for row in sorted(set(rows)))
  found = table.rows(f'SELECT row_number_, {columns} FROM sidecars WHERE row_number_ IN ({listed})')
  return {row.pop('row_number_'): row for row in found}
