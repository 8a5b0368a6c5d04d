"""Sidecars queried with SQL: the stages' columns side by side, the rows numbered through.

Conditions come from a command line, and may be somebody else's: a condition is one expression, and
the database reads nothing but the sidecars, loads no extension, and writes nothing but what memory
has no room for. Sidecars of a bucket are first copied to the local disk, many at once: the database
asks for one after another.
"""

import collections
import contextlib
import itertools
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from etils import epath

from data_pipelines.corpus import buckets, reader, schema, storage

BLOCK = 1 << 20  # Rows that are fetched at a time.
MAX_MEMORY = 4 << 30  # Bytes that DuckDB takes; the rest of what it joins goes to a disk.
# SQL of each of schema.CONTENT; null, as in older sidecars, is the whole frame.
_FIELDS = 'SELECT span.* FROM (SELECT unnest(spans) AS span FROM records)'
_CONTENT_OF = {name: f'coalesce({name}, {float(i > 1)})' for i, name in enumerate(schema.CONTENT)}


class Sidecars:
  """All sidecars of corpora as one table, `sidecars`.

  Args:
    corpora: whose they are.
    by_span: a row for each shot that `curate` found (schema.CURATE: spans), numbered within its
      record by `span_id`, with its own values of schema.SPAN; else a row for each record. What has
      no spans, such as an image or an older sidecar, is one row either way.

  Attributes:
    columns: names, of all stages.
    has_spans: whether rows have a `span_id`.
    rate: SQL of what buckets.dense_rate is.

  Raises:
    ValueError: a stage was stopped while it wrote its sidecars, or is at work.
  """

  def __init__(self, corpora: reader.Corpora, by_span: bool = False):
    import duckdb

    listed = stages(corpora.sidecars)
    _check_whole(listed)
    self._duckdb, self._num_rows = duckdb, len(corpora)
    self._db = duckdb.connect()
    self._db.execute('SET preserve_insertion_order = true')
    self._db.execute(f"SET memory_limit = '{MAX_MEMORY // 2**20}MiB'")  # More goes to a disk.
    self._db.execute(f"SET temp_directory = '{tempfile.gettempdir()}/sidecars-{os.getpid()}'")
    self._copies = tempfile.TemporaryDirectory(prefix='sidecars-')
    parts = _on_disk(listed, self._copies.name)
    names = {stage: self._columns_of(stage, parts) for stage in _all_stages(parts)}
    self.columns = {column for columns in names.values() for column in columns}
    gaps = [name for name in ('span_gap', 'longest_gap') if name in self.columns]
    self.rate = 'fps'
    if gaps:  # Older corpora have none of them, or nulls.
      self.rate = f'least(fps, {buckets.MAX_GAP} / nullif(coalesce({", ".join(gaps)}), 0))'
    starts = zip(parts, corpora.starts, strict=False)
    self._db.execute('CREATE TEMP TABLE starts (file VARCHAR, stage VARCHAR, start BIGINT)')
    self._db.executemany(
      'INSERT INTO starts VALUES (?, ?, ?)',
      [(path, stage, start) for part, start in starts for stage, path in part.items()],
    )
    self._db.execute(f'CREATE TEMP VIEW records AS {_joined(names, parts)}')
    self.has_spans = by_span and 'spans' in self.columns
    if self.has_spans:
      fields = [row[0] for row in self._db.execute(f'DESCRIBE {_FIELDS}').fetchall()]
      self._db.execute(f'CREATE TEMP VIEW sidecars AS {_by_span(self.columns, fields)}')
      self.columns = self.columns - {'spans'} | {'span_id'}
    else:
      self._db.execute('CREATE TEMP VIEW sidecars AS SELECT * FROM records')
    self._close_off([path for part in parts for path in part.values()])

  def _close_off(self, files: Sequence[str]) -> None:
    self._db.execute(f'SET allowed_paths = [{_listed(files)}]')
    self._db.execute('SET enable_external_access = false')
    self._db.execute('SET lock_configuration = true')

  def _columns_of(self, stage: str, parts: Sequence[Mapping[str, str]]) -> list[str]:
    files = [part[stage] for part in parts if stage in part]
    return [row[0] for row in self._db.execute(f'DESCRIBE {_read(files)}').fetchall()][:-2]

  def funnel(self, where: Sequence[str]) -> list[dict]:
    """Rows that each SQL condition leaves, after those before it.

    Raises:
      ValueError: a condition that is no expression of SQL, or of a column that is not there, or
        that reads a file.
    """
    kept = self._count('TRUE')
    found = [dict(condition='all', num_rows=kept)]
    for i, condition in enumerate(where):
      kept = self._count(self._all(where[: i + 1]))
      found.append(dict(condition=condition, num_rows=kept))
    return found

  def _all(self, where: Sequence[str]) -> str:
    """SQL of all these conditions together; raises ValueError unless each is one expression."""
    for condition in where:
      with self._explained():
        self._duckdb.SQLExpression(condition)
    return ' AND '.join(f'({condition}\n)' for condition in where) or 'TRUE'  # It may end in "--".

  def _count(self, condition: str) -> int:
    return self._query(f'SELECT count(*) AS n FROM sidecars WHERE {condition}')['n'][0].item()

  def select(self, where: Sequence[str], axes: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows, what index.table.Table holds of them, media codes, and the scores (NaN if unknown); and
    where `curate` found it, the content (schema.CONTENT, of the whole frame 0, 0, 1, 1), the motion
    (NaN if unknown) and the span_id."""
    for axis in axes:
      if axis not in self.columns:
        raise ValueError(f'no sidecar has the score {axis!r}; columns: {sorted(self.columns)}.')
    condition = self._all(where)
    span = dict(first_time='first_time', duration='duration')
    if 'span_start' in self.columns:
      span['first_time'] = 'coalesce(span_start, first_time)'
      span['duration'] = 'coalesce(span_end - span_start, duration)'
    span['fps'] = self.rate
    chosen = [f'{expression} AS {name}' for name, expression in span.items()]
    chosen += [f'{_quoted(axis)}::FLOAT AS score_{i}' for i, axis in enumerate(axes)]
    if self._has_content:
      chosen += [f'({_CONTENT_OF[name]})::FLOAT AS {name}' for name in schema.CONTENT]
    order = 'row_number_'
    if self.has_spans:
      chosen.append('span_id::UINTEGER AS span_id')
      order = 'row_number_, span_id'
    if 'motion' in self.columns:
      chosen.append('motion::FLOAT AS motion')
    codes = ' '.join(f"WHEN '{media}' THEN {i}" for i, media in enumerate(schema.MEDIA))
    chosen.append(f'coalesce(CASE media {codes} END, 0)::UTINYINT AS media_code')
    count = self._count(condition)
    row_type = 'UINTEGER' if self._num_rows < 2**32 else 'UBIGINT'
    with self._explained():
      reader = self._db.sql(
        f'SELECT row_number_::{row_type} AS row, {", ".join(chosen)} FROM sidecars '
        f'WHERE {condition} ORDER BY {order}'
      ).to_arrow_reader(BLOCK)
      return _filled(reader, count)

  def sizes(self, where: Sequence[str]) -> dict[str, np.ndarray]:
    """How many rows of each size the SQL conditions leave: media, height, width (pixels), num.

    A size is that of the content, where `curate` found borders around it. Raises as `funnel`.
    """
    condition = self._all(where)
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

  def choose(self, values: np.ndarray, column: str = 'row_number_') -> str:
    """SQL of the condition that a row's number, or its value of a column, is one of these."""
    self._db.register('chosen_', pa.table({'value': np.asarray(values)}))
    return f'{column} IN (SELECT value FROM chosen_)'

  def rows(self, sql: str) -> list[dict]:
    """SQL on the table `sidecars`, whose rows are numbered by `row_number_`."""
    return self._db.sql(sql).to_arrow_table().to_pylist()

  def range(self, column: str) -> tuple[str, str]:
    """The least and the largest value of a column, as text; 'unknown' where there is none."""
    sql = f'SELECT min({column}) AS low, max({column}) AS high FROM sidecars'
    [found] = self.rows(sql)
    text = lambda value: f'{value:.4g}' if isinstance(value, float) else str(value)  # noqa: E731
    low, high = ('unknown' if value is None else text(value) for value in found.values())
    return low, high

  def _query(self, sql: str) -> dict[str, np.ndarray]:
    with self._explained():
      return self._db.execute(sql).fetchnumpy()

  @contextlib.contextmanager
  def _explained(self) -> Generator[None, None, None]:
    """Turns an error of DuckDB into one about --where."""
    try:
      yield
    except self._duckdb.Error as error:
      message = str(error).split('\n\n')[0].replace('\n', ' ')
      raise ValueError(
        f'--where cannot be understood: {message} Columns: {", ".join(sorted(self.columns))}.'
      ) from error


def _filled(reader: pa.RecordBatchReader, num_rows: int) -> dict[str, np.ndarray]:
  """Its columns, as arrays that are filled batch by batch; NaN for null."""
  empty = reader.schema.empty_table()
  found = {name: np.empty(num_rows, empty[name].to_numpy().dtype) for name in empty.column_names}
  start = 0
  for batch in reader:
    for name, values in found.items():
      column = batch.column(name).to_numpy(zero_copy_only=False)
      values[start : start + len(column)] = column
    start += batch.num_rows
  return found


def stages(sidecars: Sequence[epath.Path]) -> list[dict[str, str]]:
  """{stage: path} of the sidecars of each shard; '' is ingest's."""
  added: dict[epath.Path, dict[str, str]] = collections.defaultdict(dict)
  for folder in dict.fromkeys(path.parent for path in sidecars):
    for path in sorted(folder.glob('*/*.parquet')):  # One listing: a bucket takes its time.
      added[folder / path.name][path.parent.name] = str(path)
  return [{'': str(path)} | added[path] for path in sidecars]


def _check_whole(parts: Sequence[Mapping[str, str]]) -> None:
  """Raises ValueError if a stage's manifest, which is written last, is not there."""
  found = {(path.rpartition('/')[0], stage) for part in parts for stage, path in part.items()}
  for folder, stage in sorted(found):
    if stage in schema.STAGES and not (epath.Path(folder) / 'manifest.json').exists():
      raise ValueError(
        f'{folder} is not whole: `{schema.command(stage)}` was stopped while it wrote there, or is '
        'at work. Run it again, with the same flags; no example is looked at anew.'
      )


def _on_disk(parts: Sequence[Mapping[str, str]], folder: str) -> list[dict[str, str]]:
  """The parts, of copies in the folder where they are in a bucket."""
  paths = [path for part in parts for path in part.values()]
  remote = [path for path in paths if not storage.is_local(path)]
  local = {path: f'{folder}/{number}.parquet' for number, path in enumerate(remote)}
  storage.in_threads(lambda path: storage.fetch(path, local[path]), remote)
  return [{stage: local.get(path, path) for stage, path in part.items()} for part in parts]


def _all_stages(parts: Sequence[Mapping[str, str]]) -> list[str]:
  return list(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _read(files: Sequence[str]) -> str:
  return (
    f'SELECT * FROM read_parquet([{_listed(files)}], union_by_name=true, filename=true, '
    'file_row_number=true)'
  )


def _quoted(name: str) -> str:
  return '"' + name.replace('"', '""') + '"'


def _listed(files: Sequence[str]) -> str:
  return ', '.join("'" + file.replace("'", "''") + "'" for file in files)


def _joined(names: Mapping[str, list[str]], parts: Sequence[Mapping[str, str]]) -> str:
  """SQL: ingest's columns, and of each other stage those that no stage before it has."""
  taken, joins, columns = set(), [], []
  for i, (stage, found) in enumerate(names.items()):
    columns += [f't{i}.{_quoted(name)}' for name in found if name not in taken]
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


def _by_span(columns: set[str], fields: Sequence[str]) -> str:
  """SQL: a row of `records` for each of its spans, whose fields take the place of its columns."""
  taken = columns & set(fields) - {'span_id'}
  chosen = ['row_number_', *(_quoted(name) for name in sorted(columns - taken - {'spans'}))]
  chosen += [
    f'CASE WHEN span IS NULL THEN {_quoted(name)} ELSE span.{_quoted(name)} END AS {_quoted(name)}'
    for name in sorted(taken)
  ]
  chosen.append('coalesce(span.span_id, 0) AS span_id')
  spans = 'unnest(CASE WHEN len(spans) > 0 THEN spans ELSE [NULL] END) AS span'
  return f'SELECT {", ".join(chosen)} FROM (SELECT *, {spans} FROM records)'
