"""How corpora, and the shards of one corpus, differ in what was measured of them."""

from typing import Any

import numpy as np

from data_pipelines.corpus import reader, sidecars
from data_pipelines.report import counts

SHARES = (0.05, 0.5, 0.95)  # Quantiles that are shown of each corpus.
STEPS = 16  # Distributions are compared at 15 quantiles.
BY_CHANCE = 1.95  # / sqrt(rows): one shard in a thousand is as far (Kolmogorov's limit).
MAX_SHARDS = 12


def between_corpora(
  table: sidecars.Sidecars, corpora: reader.Corpora, condition: str
) -> list[dict]:
  """Of each measure: title, and quantiles per corpus (SHARES; None where nothing is known).

  Args:
    table: of the corpora.
    corpora: that are compared.
    condition: SQL, which rows count.
  """
  found = []
  for title, value in _values(table):
    asked = ', '.join(f'quantile_disc(x, {share}) AS q{i}' for i, share in enumerate(SHARES))
    rows = [
      table.rows(f'SELECT {asked} FROM ({_of_corpus(corpora, number, value, condition)})')[0]
      for number in range(len(corpora.names))
    ]
    if any(row['q0'] is not None for row in rows):
      found.append(dict(title=title, quantiles=[list(row.values()) for row in rows]))
  return found


def between_shards(table: sidecars.Sidecars, corpora: reader.Corpora, condition: str) -> list[dict]:
  """Shards whose values are distributed otherwise than their corpus's, the farthest first.

  Args:
    table: of the corpora.
    corpora: of the shards.
    condition: SQL, which rows count.
  Returns:
    Up to MAX_SHARDS dicts of corpus, shard (name of its records), title, num_rows, distance (the
    largest difference of the two cumulative shares), median and corpus_median.
  """
  found: list[dict[str, Any]] = []
  names = {start: corpora.locate(start)[0] for start in corpora.starts[:-1] if start < len(corpora)}
  for title, value in _values(table):
    for number, name in enumerate(corpora.names):
      rows = _of_corpus(corpora, number, value, condition)
      for far in _far_shards(table, rows):
        shard = names[far.pop('start')].rpartition('/')[2]
        found.append(dict(corpus=name, shard=shard, title=title, **far))
  found.sort(key=lambda far: (-far['distance'], far['shard'], far['title']))
  return found[:MAX_SHARDS]


def _far_shards(table: sidecars.Sidecars, rows: str) -> list[dict[str, Any]]:
  shares = [i / STEPS for i in range(1, STEPS)]
  [edges] = table.rows(f'SELECT quantile_disc(x, {shares}) AS edges FROM ({rows})')
  if edges['edges'] is None:
    return []
  below = ', '.join(
    f'count(*) FILTER (WHERE x <= {x!r}) AS c{i}' for i, x in enumerate(edges['edges'])
  )
  found = table.rows(
    f'SELECT shards.start, count(*) AS num_rows, median(x) AS median, {below} FROM ({rows}) r '
    "ASOF JOIN (SELECT DISTINCT start FROM starts WHERE stage = '') shards "
    'ON r.row_number_ >= shards.start GROUP BY shards.start ORDER BY shards.start'
  )
  below_SE = np.array([[row[f'c{i}'] for i in range(STEPS - 1)] for row in found], float)
  num_rows_S = np.array([row['num_rows'] for row in found], float)
  whole_E = below_SE.sum(axis=0) / num_rows_S.sum()
  distance_S = np.abs(below_SE / num_rows_S[:, None] - whole_E).max(axis=1)
  return [
    dict(
      start=row['start'], num_rows=row['num_rows'], distance=float(distance),
      median=float(row['median']), corpus_median=float(edges['edges'][STEPS // 2 - 1]),
    )
    for row, distance in zip(found, distance_S, strict=True)
    if distance > BY_CHANCE / row['num_rows'] ** 0.5
  ]  # fmt: skip


def _values(table: sidecars.Sidecars) -> list[tuple[str, str]]:
  return [(measure.name, f'({measure.sql})::DOUBLE') for measure in counts.measures(table)]


def _of_corpus(corpora: reader.Corpora, number: int, value: str, condition: str) -> str:
  start, stop = corpora.corpus_starts[number : number + 2]
  return (
    f'SELECT row_number_, {value} AS x FROM sidecars WHERE ({condition}) AND isfinite({value}) '
    f'AND row_number_ >= {start} AND row_number_ < {stop}'
  )
