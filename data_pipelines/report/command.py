"""Report: one HTML page about corpora, and about an index of them if one is given.

The page needs nothing beside it: pictures are data URIs, histograms are inline SVG, and its content
security policy lets a browser fetch or run nothing. Captions and keys come from the web: they are
escaped. The same corpus gives the same bytes.
"""

import logging
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines import progress
from data_pipelines.corpus import aspects, jobs, reader, schema, sidecars, storage
from data_pipelines.index import command as index_lib
from data_pipelines.index import table as table_lib
from data_pipelines.media import failures
from data_pipelines.pages import frame
from data_pipelines.report import counts, drift
from data_pipelines.report import strips as strips_lib

TEMPLATE = pathlib.Path(__file__).parent / 'page.html'
BOUNDS = (aspects.MAX_CROP, aspects.MAX_ENLARGE)
Group = tuple[str, str, list[int]]  # (kind, title, rows).


def report(
  directories: Mapping[str, str],
  output: str,
  index_folder: str = '',
  num_examples: int = 6,
  framing: aspects.Framing | None = None,
) -> dict:
  """Writes the page.

  Args:
    directories: name -> ingested corpus; of an index, the same by the same names.
    output: file of the page, on a disk or in a bucket.
    index_folder: of an index of the corpora, or ''.
    num_examples: pictures per cell, per rule of curate, and without an index per kind of media.
    framing: aspects whose examples are counted; those of configs/i2v.py:aspects if None.
  Returns:
    What the page shows, without the pictures.
  Raises:
    ValueError: no corpus, or an index of others.
  """
  corpora = reader.Corpora(dict(directories), 'train')
  manifest = table_lib.read_manifest(index_folder) if index_folder else None
  order = table_lib.read(index_folder, corpora).rows if index_folder else None
  table = sidecars.Sidecars(corpora)
  conditions = counts.populations(table.columns, '' if order is None else table.choose(order))
  last = list(conditions.values())[-1]
  found = dict(
    corpora=[_corpus(name, directory) for name, directory in directories.items()],
    sizes=counts.sizes(table, conditions),
    index=manifest,
    heatmaps=_heatmaps(manifest) if manifest else [],
    histograms=counts.histograms(table, conditions),
    rejections=counts.rejections(directories),
    licences=counts.licences(table, conditions),
    eligibility=counts.eligibility(table, last),
    aspects=counts.by_aspect(table, last, framing or aspects.Framing('', aspects.BASE, *BOUNDS)),
    copies=counts.copies(table, corpora.corpus_starts[:-1], num_examples),
    differences=drift.between_corpora(table, corpora, last),
    far_shards=drift.between_shards(table, corpora, last),
    populations=list(conditions),
  )
  if manifest:
    left = sidecars.Sidecars(corpora, by_span=True).funnel(manifest['where'])[-1]['num_rows']
    if left != manifest['num_rows']:
      raise ValueError(
        f'{index_folder} has {manifest["num_rows"]} rows, but its conditions now leave {left}: '
        'curate or score has run since; index again.'
      )
  groups = _groups(table, conditions, manifest, order, num_examples)
  groups += [('copies', f'{count:,} alike', rows) for count, rows in found['copies']['clusters']]
  html = _page(found, _sheets(corpora, table, groups))
  storage.write_bytes(epath.Path(output), html.encode())
  return found


def _corpus(name: str, directory: str) -> dict:
  manifest = reader.read_manifest(directory)
  num_examples = sum(split['num_examples'] for split in manifest['splits'].values())
  return dict(
    name=name,
    layout=manifest['layout'],
    fingerprint=manifest['fingerprint'],
    splits={split: found['num_by_media'] for split, found in manifest['splits'].items()},
    num_examples=num_examples,
    num_rejected=manifest['num_rejected'],
    **{stage: counts.stage_manifest(directory, stage) for stage in schema.STAGES},
  )


def _heatmaps(manifest: Mapping) -> list[dict]:
  """Tables of cells: the first score downwards, the second to the right, the others in its title.

  Returns:
    Dicts of title, media, rows and columns (levels), and cells: {(row, column): dict}.
  """
  axes, found = manifest['axes'], {}
  for media in schema.MEDIA:
    listed = index_lib.shares(manifest, media)
    total = sum(count for _, count, _ in listed)
    for cell, count, share in listed:
      levels = dict(part.split('=') for part in cell['name'].split()[1:])
      named = [f'{axis} {_range(manifest, axis, levels[axis])}' for axis in axes]
      title = ', '.join([media, *named[2:]])
      panel = found.setdefault(title, dict(title=title, media=media, axes=axes[:2], cells=[]))
      draws = manifest['balance']['num_draws'] * total / manifest['num_rows'] * share
      panel['cells'].append(
        dict(
          name=cell['name'],
          place=(named + ['', ''])[:2],
          anchor=_anchor(cell['name']),
          count=count,
          share=count / total,
          drawn=share,
          epochs=draws / count,
        )
      )
  return list(found.values())


def _range(manifest: Mapping, axis: str, level: str) -> str:
  """The scores of a level of an axis, for people."""
  if level == table_lib.UNKNOWN:
    return level
  edges = ['', *(f'{edge:.3g}' for edge in manifest['edges'][axis]), '']
  low, high = edges[int(level)], edges[int(level) + 1]
  if low and high:
    return f'{low} to {high}'
  return f'from {low}' if low else f'below {high}' if high else 'all'


def _anchor(name: str) -> str:
  return re.sub(r'[^a-z0-9]+', '-', name.lower())


def _groups(
  table: sidecars.Sidecars,
  conditions: Mapping[str, str],
  manifest: Mapping | None,
  order: np.ndarray | None,
  num_examples: int,
) -> list[Group]:
  """Contact sheets as (kind, title, rows): of cells, or of what is kept; and of what is dropped."""
  groups: list[Group] = []
  if manifest and order is not None:
    for cell in manifest['cells']:
      start, stop = cell['places']
      step = max(1, (stop - start) // max(1, num_examples))
      rows = [int(order[place]) for place in range(start, stop, step)[:num_examples]]
      groups.append(('cell', cell['name'], rows))
  else:
    last = list(conditions.values())[-1]
    for media in schema.MEDIA:
      rows = counts.some_rows(table, f"{last} AND media = '{media}'", num_examples)
      groups.append(('cell', f'{media}s', rows))
  if 'reject' in table.columns:
    rules = table.rows('SELECT DISTINCT unnest(reject) AS rule FROM sidecars ORDER BY rule')
    for rule in (row['rule'] for row in rules):
      rows = counts.some_rows(table, f"list_contains(reject, '{rule}')", num_examples)
      groups.append(('rule', rule, rows))
  if 'cuts' in table.columns:
    groups.append(('cut', 'cuts', counts.some_rows(table, 'len(cuts) > 0', num_examples)))
  return [group for group in groups if group[2]]


def _sheets(
  corpora: reader.Corpora, table: sidecars.Sidecars, groups: Sequence[Group]
) -> list[dict]:
  """The groups with their examples drawn; an example that is in several is drawn once."""
  details = counts.details(table, [row for _, _, rows in groups for row in rows])
  strips = strips_lib.Strips(corpora)
  try:
    wanted = {(row, kind == 'cut') for kind, _, rows in groups for row in rows}
    drawn = {
      (row, at_cut): strips(row, dict(details[row], at_cut=at_cut))
      for row, at_cut in progress.over(sorted(wanted), len(wanted), 'example', 'drawing')
    }
  finally:
    strips.close()
  if strips.failed:
    logging.warning(failures.sentence(strips.failed, 'drawn'))
  return [
    dict(
      kind=kind,
      title=title,
      anchor=_anchor(title),
      examples=[drawn[row, kind == 'cut'] for row in rows],
    )
    for kind, title, rows in groups
  ]


def _page(found: Mapping[str, Any], sheets: Sequence[Mapping]) -> str:
  title = f'Corpus: {", ".join(corpus["name"] for corpus in found["corpora"])}'
  return frame.render(TEMPLATE, title=title, **found, sheets=sheets)


def add_command(commands: jobs.Commands) -> None:
  """Adds `report` to the command line."""
  text = 'Write one HTML page about a corpus: what it holds, what was dropped, what is drawn.'
  parser = commands.add_parser('report', help=text, description=text)
  parser.add_argument(
    '--corpus', action='append', required=True, metavar='[NAME=]DIR',
    help='folder that ingest wrote; repeated for an index of several',
  )  # fmt: skip
  parser.add_argument('--index', default='', help='folder that index wrote; cells are shown then')
  parser.add_argument('--output', required=True, help='file to write, report.html')
  parser.add_argument(
    '--num_examples', type=int, default=6, help='pictures per cell and per rule; 0 for none'
  )
  aspects.add_flags(parser)
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_run_command)


def _run_command(
  corpus: Sequence[str], index: str, output: str, num_examples: int, dry_run: bool, **options: Any
) -> None:
  start = time.monotonic()
  framing = aspects.given(options)
  directories = index_lib.named(corpus)
  if dry_run:
    for name, directory in directories.items():
      found = _corpus(name, directory)
      stages = ', '.join(stage for stage in schema.STAGES if found[stage]) or 'none'
      print(f'{name}: {found["num_examples"]:,} examples, stages: {stages}')
    print(f'would write {output}; nothing was written')
    return
  found = report(directories, output, index, num_examples, framing)
  for size in found['sizes']:
    print(f'{size["num_rows"]:>12,} {size["name"]}, {size["hours"]:.2f} h')
  for row in found['aspects']['rows']:
    print(f'{row["name"]}s by aspect (data.aspects): {aspects.text_of(row["counts"])}')
  print(
    f'{output}: {epath.Path(output).stat().length / 1e6:.1f} MB, {time.monotonic() - start:.1f} s'
  )
