"""Report: one HTML page about corpora, and about an index of them if one is given.

The page needs nothing beside it: pictures are data URIs, histograms are inline SVG, and its content
security policy lets a browser fetch or run nothing. Captions and keys come from the web: they are
escaped. The same corpus gives the same bytes.
"""

import contextlib
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.corpus import aspects, jobs, reader, schema, sidecars, storage
from data_pipelines.index import command as index_lib
from data_pipelines.index import table as table_lib
from data_pipelines.media import failures
from data_pipelines.pages import frame
from data_pipelines.report import (
  cells,
  copies,
  counts,
  drift,
  examples,
  glossary,
  shots,
  versions,
)
from data_pipelines.report import strips as strips_lib

TEMPLATE = pathlib.Path(__file__).parent / 'page.html'
BOUNDS = (aspects.MAX_CROP, aspects.MAX_ENLARGE)


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
    num_examples: pictures per cell, per rule of curate, and without an index per kind of media;
      videos whose cuts are shown, and groups of copies.
    framing: aspects whose examples are counted; those of configs/i2v.py:aspects if None.
  Returns:
    What the page shows.
  Raises:
    ValueError: no corpus, or an index of others.
  """
  corpora = reader.Corpora(dict(directories), 'train')
  manifest = table_lib.read_manifest(index_folder) if index_folder else None
  index = table_lib.read(index_folder, corpora) if index_folder else None
  if manifest:
    _check_rows(index_folder, manifest, corpora)
  table = sidecars.Sidecars(corpora)
  order = None if index is None else index.rows
  conditions = counts.populations(table.columns, '' if order is None else table.choose(order))
  last = list(conditions.values())[-1]
  framing = framing or aspects.Framing('', aspects.BASE, *BOUNDS)
  found = _counted(directories, corpora, table, conditions, framing)
  found |= dict(index=manifest, words=glossary.WORDS)
  found['copies'] = copies.find(table, corpora.corpus_starts, num_examples)
  with contextlib.closing(strips_lib.Strips(corpora)) as strips:
    gallery = examples.Gallery(table, strips)
    if manifest and index:
      of_cells = examples.of_cells(gallery, manifest, index, num_examples)
      found |= dict(maps=cells.maps(manifest, of_cells), kept=[])
    else:
      found |= dict(maps=[], kept=examples.of_media(gallery, last, num_examples))
    found |= dict(
      rules=examples.of_rules(gallery, num_examples),
      videos=shots.of_videos(gallery, num_examples),
      seen=examples.of_detectors(gallery, num_examples),
      groups=copies.draw(gallery, directories, found['copies']['groups']),
    )
    if strips.failed:
      logging.warning(failures.sentence(strips.failed, 'drawn'))
  title = f'Corpus: {", ".join(corpus["name"] for corpus in found["corpora"])}'
  storage.write_bytes(epath.Path(output), frame.render(TEMPLATE, title=title, **found).encode())
  return found


def _counted(
  directories: Mapping[str, str],
  corpora: reader.Corpora,
  table: sidecars.Sidecars,
  conditions: Mapping[str, str],
  framing: aspects.Framing,
) -> dict[str, Any]:
  """The figures of the page."""
  last = list(conditions.values())[-1]
  return dict(
    populations=list(conditions),
    corpora=[_corpus(name, directory) for name, directory in directories.items()],
    versions=versions.added(table, corpora),
    sizes=counts.sizes(table, conditions),
    histograms=counts.histograms(table, conditions),
    rejections=counts.rejections(directories),
    licences=counts.licences(table, conditions),
    eligibility=counts.eligibility(table, last),
    aspects=counts.by_aspect(table, last, framing),
    differences=drift.between_corpora(table, corpora, last),
    far_shards=drift.between_shards(table, corpora, last),
  )


def _check_rows(index_folder: str, manifest: Mapping, corpora: reader.Corpora) -> None:
  """Raises ValueError if the conditions of an index leave other rows than they did."""
  where = manifest['where']
  left = sidecars.Sidecars(corpora, by_span=True).funnel(where)[-1]['num_rows']
  then = manifest['funnel'][len(where)]['num_rows']  # Copies that others hold are dropped later.
  if left != then:
    raise ValueError(
      f'the conditions of {index_folder} left {then} rows, and now leave {left}: curate or score '
      'has run since; index again.'
    )


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
