"""Sidecars queried with SQL: the stages' columns side by side, the rows numbered through."""

import collections
import itertools
from collections.abc import Mapping, Sequence

import fsspec
import numpy as np
from etils import epath

from data_pipelines.corpus import buckets, reader, schema

# SQL of each of schema.CONTENT; null, as in older sidecars, is the whole frame.
_CONTENT_OF = {name: f'coalesce({name}, {float(i > 1)})' for i, name in enumerate(schema.CONTENT)}


class Sidecars:
  """All sidecars of corpora as one table.

  Attributes:
    columns: names, of all stages.
    rate: SQL of what buckets.dense_rate is.
  """

  def __init__(self, corpora: reader.Corpora):
    import duckdb

    self._duckdb = duckdb
    self._db = duckdb.connect()
    self._db.execute('SET preserve_insertion_order = true')
    for protocol in {path.split('://')[0] for path in map(str, corpora.sidecars) if '://' in path}:
      self._db.register_filesystem(fsspec.filesystem(protocol))
    parts = stages(corpora.sidecars)
    names = {stage: self._columns_of(stage, parts) for stage in _all_stages(parts)}
    self.columns = {column for columns in names.values() for column in columns}
    has_gaps = 'longest_gap' in self.columns
    self.rate = f'least(fps, {buckets.MAX_GAP} / nullif(longest_gap, 0))' if has_gaps else 'fps'
    starts = zip(parts, corpora.starts, strict=False)
    self._db.execute('CREATE TEMP TABLE starts (file VARCHAR, stage VARCHAR, start BIGINT)')
    self._db.executemany(
      'INSERT INTO starts VALUES (?, ?, ?)',
      [(path, stage, start) for part, start in starts for stage, path in part.items()],
    )
    self._db.execute(f'CREATE TEMP VIEW sidecars AS {_joined(names, parts)}')

  def _columns_of(self, stage: str, parts: Sequence[Mapping[str, str]]) -> list[str]:
    files = [part[stage] for part in parts if stage in part]
    return [row[0] for row in self._db.execute(f'DESCRIBE {_read(files)}').fetchall()][:-2]

  def funnel(self, where: Sequence[str]) -> list[dict]:
    """Rows that each SQL condition leaves, after those before it.

    Raises:
      ValueError: a condition that is no SQL, or of a column that is not there.
    """
    kept = self._count('TRUE')
    found = [dict(condition='all', num_rows=kept)]
    for i, condition in enumerate(where):
      kept = self._count(' AND '.join(f'({c})' for c in where[: i + 1]))
      found.append(dict(condition=condition, num_rows=kept))
    return found

  def _count(self, condition: str) -> int:
    return self._query(f'SELECT count(*) AS n FROM sidecars WHERE {condition}')['n'][0].item()

  def select(self, where: Sequence[str], axes: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows, what index.table.Table holds of them, media codes, and the scores (NaN if unknown); and
    where `curate` found it, the content (schema.CONTENT, of the whole frame 0, 0, 1, 1)."""
    for axis in axes:
      if axis not in self.columns:
        raise ValueError(f'no sidecar has the score {axis!r}; columns: {sorted(self.columns)}.')
    condition = ' AND '.join(f'({c})' for c in where) or 'TRUE'
    span = dict(first_time='first_time', duration='duration')
    if 'span_start' in self.columns:
      span['first_time'] = 'coalesce(span_start, first_time)'
      span['duration'] = 'coalesce(span_end - span_start, duration)'
    span['fps'] = self.rate
    chosen = [f'{expression} AS {name}' for name, expression in span.items()]
    chosen += [f'{axis}::FLOAT AS score_{i}' for i, axis in enumerate(axes)]
    if self._has_content:
      chosen += [f'{_CONTENT_OF[name]} AS {name}' for name in schema.CONTENT]
    codes = ' '.join(f"WHEN '{media}' THEN {i}" for i, media in enumerate(schema.MEDIA))
    found = self._query(
      f'SELECT row_number_ AS row, CASE media {codes} END AS media_code, {", ".join(chosen)} '
      f'FROM sidecars WHERE {condition} ORDER BY row_number_'
    )
    return {name: np.ma.filled(values, np.nan) for name, values in found.items()}

  def sizes(self, where: Sequence[str]) -> dict[str, np.ndarray]:
    """How many rows of each size the SQL conditions leave: media, height, width (pixels), num.

    A size is that of the content, where `curate` found borders around it. Raises as `funnel`.
    """
    condition = ' AND '.join(f'({c})' for c in where) or 'TRUE'
    shares = ['1.0', '1.0']
    if self._has_content:
      shares = [_CONTENT_OF[name] for name in schema.CONTENT[2:]]
    height, width = (
      f'greatest(round_even({side} * ({share})::DOUBLE, 0), 1)::INTEGER AS {side}'
      for side, share in zip(('height', 'width'), shares, strict=True)
    )
    return self._query(
      f'SELECT media, {height}, {width}, count(*) AS num FROM sidecars WHERE {condition} '
      'GROUP BY ALL ORDER BY ALL'
    )

  @property
  def _has_content(self) -> bool:
    return set(schema.CONTENT) <= self.columns

  def rows(self, sql: str) -> list[dict]:
    """SQL on the table `sidecars`, whose rows are numbered by `row_number_`."""
    return self._db.sql(sql).to_arrow_table().to_pylist()

  def _query(self, sql: str) -> dict[str, np.ndarray]:
    try:
      return self._db.execute(sql).fetchnumpy()
    except self._duckdb.Error as error:
      message = str(error).split('\n\n')[0].replace('\n', ' ')
      raise ValueError(
        f'--where cannot be understood: {message} Columns: {", ".join(sorted(self.columns))}.'
      ) from error


def stages(sidecars: Sequence[epath.Path]) -> list[dict[str, str]]:
  """{stage: path} of the sidecars of each shard; '' is ingest's."""
  added: dict[epath.Path, dict[str, str]] = collections.defaultdict(dict)
  for folder in dict.fromkeys(path.parent for path in sidecars):
    for path in sorted(folder.glob('*/*.parquet')):  # One listing: a bucket takes its time.
      added[folder / path.name][path.parent.name] = str(path)
  return [{'': str(path)} | added[path] for path in sidecars]


def _all_stages(parts: Sequence[Mapping[str, str]]) -> list[str]:
  return list(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _read(files: Sequence[str]) -> str:
  listed = ', '.join("'" + file.replace("'", "''") + "'" for file in files)
  return (
    f'SELECT * FROM read_parquet([{listed}], union_by_name=true, filename=true, '
    'file_row_number=true)'
  )


def _joined(names: Mapping[str, list[str]], parts: Sequence[Mapping[str, str]]) -> str:
  """SQL: ingest's columns, and of each other stage those that no stage before it has."""
  taken, joins, columns = set(), [], []
  for i, (stage, found) in enumerate(names.items()):
    columns += [f't{i}."{name}"' for name in found if name not in taken]
    taken |= set(found)
    files = [part[stage] for part in parts if stage in part]
    source = (
      f'(SELECT s.*, start + file_row_number AS row_number_{i} FROM ({_read(files)}) s '
      f'JOIN starts ON starts.file = s.filename) t{i}'
    )
    joins.append(
      source if not i else f'LEFT JOIN {source} ON t0.row_number_0 = t{i}.row_number_{i}'
    )
  return f'SELECT t0.row_number_0 AS row_number_, {", ".join(columns)} FROM {" ".join(joins)}'
