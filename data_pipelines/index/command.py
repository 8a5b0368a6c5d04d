"""Index: which rows of ingested corpora training draws, grouped into cells that it may even out.

DuckDB filters the sidecars, all stages' columns side by side; quantiles of the scores make cells.
What is written is memory-mapped by training:

    manifest.json        counts, funnel, cells and their shares' rule, fingerprint; written last
    card.md              sources, licences, filters, known limits, for people
    cells.json           the edges between the cells, to be used again for other corpora
    order.u32.npy        rows in the order of their cells (u64 beyond 2^32 rows)
    first_time.f64.npy, duration.f64.npy, fps.f32.npy   of these rows: a single shot if `curate`
                         was run, else the whole video
    span.u32.npy         if a video has several shots: span_id of these rows, each of which is one
    content.f32.npy      if `curate` found borders: the content of these rows, schema.CONTENT
    motion.f32.npy       if `curate` measured it: of these rows, NaN where it is unknown
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from data_pipelines.corpus import aspects, jobs, reader, schema, sidecars, storage
from data_pipelines.index import axes as axes_lib
from data_pipelines.index import card, cells, copies, funnel
from data_pipelines.index import columns as columns_lib
from data_pipelines.index import table as table_lib

_CHOICE = 2  # Of how rows are left out: an index of an older one is made again.


def index(
  directories: Mapping[str, str],
  output: str,
  where: Sequence[str] = (),
  axes: Sequence[str] | None = None,
  quantiles: int = 4,
  edges: str = '',
  balance: table_lib.Balance | None = None,
  dry_run: bool = False,
  keep_copies: bool = False,
) -> dict:
  """Indexes the training rows of corpora, a row for each shot of a video that `curate` found; does
  nothing if that is done already.

  Args:
    directories: name -> ingested corpus, named as in data.directories of the config.
    output: folder of the index; it and the corpora may be in a bucket.
    where: SQL conditions on sidecar columns; a row stays if all hold. If `curate` has run and none
      says 'keep', only what it keeps stays.
    axes: score columns that make cells; if None, those of axes.DEFAULT that most rows of a kind of
      media have.
    quantiles: cells per axis, of equal size over the rows that stay.
    edges: a cells.json whose edges are used instead of new quantiles.
    balance: how the cells are drawn.
    dry_run: only returns what would be written.
    keep_copies: whether copies that several corpora hold all stay; those of held-out media never.
  Returns:
    The manifest.
  Raises:
    ValueError: no corpus, a condition that cannot be, no row left, or another run writes there.
  """
  corpora = reader.Corpora(dict(directories), 'train')
  _check_stages(corpora)
  balance = balance or table_lib.Balance()
  identity = _identity(corpora, where, axes, quantiles, edges, balance, keep_copies)
  folder = epath.Path(output)
  if (folder / 'manifest.json').exists() and not dry_run:
    found = table_lib.read_manifest(folder)
    if found['identity'] == identity:
      logging.info('%s is indexed already.', output)
      if (folder / '_written').exists():  # Of a run that was killed at its end.
        with contextlib.suppress(ValueError), jobs.claimed(folder / '_written', '', kept=False):
          pass  # An index that may only be read stays as it is.
      return found
  table = sidecars.Sidecars(corpora, by_span=True)
  if 'keep' in table.columns and not any('keep' in condition for condition in where):
    where = [funnel.KEPT, *where]  # What `curate` keeps, unless told otherwise.
  chosen = _choose(table, corpora, where, axes, keep_copies)
  edge_values = (
    cells.read_edges(edges, chosen.axes)
    if edges
    else cells.quantile_edges(chosen.rows, chosen.axes, quantiles)
  )
  order, found_cells = cells.group(chosen.rows, chosen.axes, edge_values)
  manifest = dict(
    version=table_lib.VERSION,
    identity=identity,
    corpora={
      name: dict(fingerprint=fingerprint)
      for name, fingerprint in zip(corpora.names, corpora.fingerprints, strict=True)
    },
    where=list(where),
    funnel=chosen.funnel,
    axes=chosen.axes,
    left_out=chosen.left_out,
    edges=edge_values,
    balance=dataclasses.asdict(balance),
    num_rows=len(order),
    cells=found_cells,
  )
  columns = _columns(chosen.rows, order, manifest)
  if not dry_run:
    with jobs.claimed(folder / '_written', identity, kept=False):
      card.write(folder, manifest, corpora, table)
      _write(folder, manifest, columns)
  return manifest


class _Chosen(NamedTuple):
  """What is drawn: rows of Sidecars.select, the steps of the funnel, the scores that divide them,
  and a sentence for each score that does not."""

  rows: dict[str, np.ndarray]
  funnel: list[dict]
  axes: list[str]
  left_out: list[str]


def _choose(
  table: sidecars.Sidecars,
  corpora: reader.Corpora,
  where: Sequence[str],
  axes: Sequence[str] | None,
  keep_copies: bool,
) -> _Chosen:
  """The rows that conditions and copies leave; raises ValueError if there is none."""
  names = [name for name in axes_lib.DEFAULT if name in table.columns] if axes is None else axes
  steps = funnel.with_reasons(table, table.funnel(where))
  rows = table.select(where, names)
  left_out: list[str] = []
  if axes is None:
    names, left_out = axes_lib.leave_out_unknown(rows, names)
  if len(rows['row']):
    steps += copies.drop(table, list(corpora.directories.values()), rows, keep_copies)
  if not len(rows['row']):
    raise ValueError(f'no row is left: {funnel.text_of(steps)}.{funnel.ways_out(table, steps)}')
  funnel.warn_of_images(table, where)
  return _Chosen(rows, steps, list(names), left_out)


def _columns(
  rows: Mapping[str, np.ndarray], order: np.ndarray, manifest: dict
) -> columns_lib.Columns:
  """The columns of the rows in their order; the manifest gets their fingerprint and which of those
  there are that not every index has."""
  columns = columns_lib.Columns(rows, order)
  if 'content' in columns:
    manifest['is_cropped'] = True
  if rows.get('span_id', np.zeros(1)).any():
    columns.add('span', np.uint32)
    manifest['has_spans'] = True
  manifest['fingerprint'] = _fingerprint(manifest, columns)
  if 'motion' in rows:  # It changes no draw, and so no fingerprint.
    columns.add('motion', np.float32)
    manifest['has_motion'] = True
  return columns


def _check_stages(corpora: reader.Corpora) -> None:
  """Raises ValueError if a corpus has grown since `curate` saw it; warns for the other stages."""
  for directory, fingerprint in zip(
    corpora.directories.values(), corpora.fingerprints, strict=True
  ):
    for stage in schema.STAGES:
      path = directory / 'sidecar' / stage / 'manifest.json'
      if not path.exists() or storage.read_json(path).get('corpus', fingerprint) == fingerprint:
        continue
      if stage == 'curate':  # Denylists and copies: what it has not seen must not be drawn.
        raise ValueError(
          f'{directory} has grown since it was curated: run python -m data_pipelines curate '
          f'--corpus={shlex.quote(str(directory))} again, with the same flags; only new '
          'shards are measured.'
        )
      logging.warning('%s has grown since `%s` ran: new rows lack its columns.', directory, stage)


def _identity(
  corpora: reader.Corpora,
  where: Sequence[str],
  axes: Sequence[str] | None,
  quantiles: int,
  edges: str,
  balance: table_lib.Balance,
  keep_copies: bool,
) -> str:
  """Changes if the sidecars, of any stage, or an option change."""
  paths = [path for found in sidecars.stages(corpora.sidecars) for path in found.values()]
  files = list(zip(paths, storage.stamps(paths), strict=True))
  edge_text = epath.Path(edges).read_text() if edges else ''
  chosen = dict(default=axes_lib.DEFAULT) if axes is None else list(axes)
  options = [list(where), chosen, quantiles, edge_text, dataclasses.asdict(balance), keep_copies]
  described = [table_lib.VERSION, _CHOICE, corpora.fingerprints, files, options]
  return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _fingerprint(manifest: Mapping, columns: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in ('corpora', 'balance', 'cells'):
    digest.update(json.dumps(manifest[name]).encode())
  for name in sorted(columns):
    digest.update(np.ascontiguousarray(columns[name]).data)
  return digest.hexdigest()[:16]


def _write(output: epath.Path, manifest: Mapping, columns: Mapping[str, np.ndarray]) -> None:
  (output / 'manifest.json').unlink(missing_ok=True)  # While the files change, there is none.
  for old in output.glob('*.npy'):
    old.unlink()
  for name, values in columns.items():
    path = output / f'{name}.{values.dtype.kind}{8 * values.dtype.itemsize}.npy'
    with storage.written(path) as local, local.open('wb') as file:
      np.save(file, values)
  for name, found in (('cells', dict(edges=manifest['edges'])), ('manifest', manifest)):
    storage.write_bytes(output / f'{name}.json', json.dumps(found, indent=2).encode())


def add_command(commands: jobs.Commands) -> None:
  """Adds `index` to python -m data_pipelines."""
  text = 'Choose the rows of ingested corpora that training draws, and even out their scores.'
  parser = commands.add_parser('index', help=text, description=text)
  parser.add_argument(
    '--corpus', action='append', required=True, metavar='[NAME=]DIR',
    help='as in data.directories of the config; may be repeated',
  )  # fmt: skip
  parser.add_argument('--output', required=True, help='folder of the index, for data.index')
  parser.add_argument(
    '--where', action='append', default=[], metavar='CONDITION',
    help="SQL on sidecar columns, such as 'duration >= 2'; may be repeated: the funnel shows each",
  )  # fmt: skip
  parser.add_argument(
    '--license_allow', action='append', default=[], metavar='LICENCE',
    help='only rows whose source tells this licence, in any case; may be repeated',
  )  # fmt: skip
  parser.add_argument(
    '--axes',
    help='scores that make cells, with commas; default: those of aesthetic, motion and '
    'network_subject that most rows have',
  )
  parser.add_argument('--quantiles', type=int, default=4, help='cells per score; %(default)s')
  parser.add_argument('--edges', default='', help='cells.json of another index, to use its edges')
  parser.add_argument(
    '--alpha', type=float, default=0.5, help='0: as the corpus is, 1: cells alike'
  )
  parser.add_argument(
    '--max_epochs', type=float, default=0.0, help='of any cell in num_draws; 0 for no bound'
  )
  parser.add_argument('--num_draws', type=int, default=0, help='examples that the run will draw')
  aspects.add_flags(parser)
  parser.add_argument(
    '--unknown_weight', type=float, default=1.0, help='of cells without a score; %(default)s'
  )
  parser.add_argument(
    '--keep_copies', action='store_true', help='copies that several corpora hold all stay'
  )
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_run)


def _run(
  corpus, output, axes, alpha, max_epochs, num_draws, unknown_weight, license_allow, **options
):
  directories = named(corpus)
  if license_allow:
    options['where'] = [*options['where'], _of_licences(license_allow)]
  balance = table_lib.Balance(alpha, max_epochs, num_draws, unknown_weight)
  axes = None if axes is None else [axis for axis in axes.split(',') if axis]
  framing = aspects.given(options)
  manifest = index(directories, output, axes=axes, balance=balance, **options)
  _report(manifest)
  if framing:
    table = sidecars.Sidecars(reader.Corpora(directories, 'train'), by_span=True)
    sizes = table.sizes(manifest['where'])
    for media, counts in aspects.count_by_media(framing, sizes, schema.MEDIA).items():
      print(f'{media}s by aspect (data.aspects): {aspects.text_of(counts)}')
  print(f'{"would write" if options["dry_run"] else "index"} {output}')
  print(f'fingerprint {manifest["fingerprint"]}')


def _of_licences(allowed: Sequence[str]) -> str:
  """SQL: the row's licence is one of these."""
  listed = ', '.join("'" + name.strip().lower().replace("'", "''") + "'" for name in allowed)
  return f'lower(trim(license)) IN ({listed})'


def named(corpora: Sequence[str]) -> dict[str, str]:
  """{name: folder} of flags [NAME=]DIR, as a config holds its directories."""
  parts = [item.rpartition('=') for item in corpora]
  directories = {name or pathlib.Path(path).name: path for name, _, path in parts}
  if len(directories) < len(corpora):
    raise ValueError(f'the corpora {corpora} should have different names: --corpus=NAME=DIR.')
  return directories


def _report(manifest: Mapping) -> None:
  before = None
  for step in manifest['funnel']:
    lost = '' if before is None else f'  -{before - step["num_rows"]}'
    print(f'{step["num_rows"]:>12} {step["condition"]}{lost}{funnel.rules(step)}')
    before = step['num_rows']
  for sentence in manifest.get('left_out', ()):
    print(f'not an axis: {sentence}')
  for media in schema.MEDIA:
    found = shares(manifest, media)
    if not found:
      continue
    total = sum(count for _, count, _ in found)
    print(f'{media}: {len(found)} cells, {total} rows; rows, share -> share of draws')
    for cell, count, share in found:
      print(f'{count:>12} {count / total:7.2%} -> {share:7.2%}  {cell["name"]}')


def shares(manifest: Mapping, media: str) -> list[tuple[dict, int, float]]:
  """(cell, its rows, its share of the draws of that media) of the cells of a kind of media."""
  found = [cell for cell in manifest['cells'] if cell['media'] == media]
  if not found:
    return []
  counts = np.array([cell['places'][1] - cell['places'][0] for cell in found])
  is_unknown = np.array([table_lib.UNKNOWN in cell['name'] for cell in found])
  balance = table_lib.Balance(**manifest['balance'])
  drawn = table_lib.balanced_shares(
    counts.astype(float), is_unknown, balance, counts.sum() / manifest['num_rows']
  )
  return list(zip(found, counts.tolist(), drawn.tolist(), strict=True))
