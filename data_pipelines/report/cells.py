"""Maps of an index: its cells on a grid of the two scores that divide it most."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines.index import command as index_lib
from data_pipelines.index import table as table_lib
from data_pipelines.report import glossary

MEASURES = {measure.sql: measure for measure in glossary.MEASURES}  # Of columns as they are.


def maps(manifest: Mapping, examples: Mapping[str, Sequence[dict]]) -> list[dict]:
  """A grid for each kind of media, and for each level of the scores beyond the two largest.

  Args:
    manifest: of the index.
    examples: of each cell, by its name.
  Returns:
    Dicts of title, media, axes (names, downwards and to the right), rows and columns (ranges) and
    cells: dicts of name, place (row, column), title, anchor, count, share (of the rows), drawn (of
    the draws of that media), epochs (0 if nobody knows the draws) and examples.
  """
  axes = _largest(manifest)
  grids: dict[str, dict[str, Any]] = {}
  for media in dict.fromkeys(cell['media'] for cell in manifest['cells']):
    listed = index_lib.shares(manifest, media)
    total = sum(count for _, count, _ in listed)
    for cell, count, share in listed:
      levels = _levels(cell)
      ranges = [_range(manifest, axis, levels[axis]) for axis in axes]
      named = [f'{_title(axis)} {found}' for axis, found in zip(axes, ranges, strict=True)]
      title = ', '.join([f'{media}s', *named[2:]])
      across = [_name(axis) for axis in axes[:2]]
      grid = grids.setdefault(title, dict(title=title, media=media, axes=across, cells=[]))
      draws = manifest['balance']['num_draws'] * total / manifest['num_rows'] * share
      grid['cells'].append(
        dict(
          name=cell['name'],
          levels=[_order(levels[axis]) for axis in axes[:2]],
          place=[*ranges[:2], 'all', 'all'][:2],
          title=', '.join([f'{media}s', *named]),
          anchor='cell-' + re.sub(r'[^a-z0-9]+', '-', cell['name'].lower()),
          count=count,
          share=count / total,
          drawn=share,
          epochs=draws / count,
          examples=examples.get(cell['name'], []),
        )
      )
  for grid in grids.values():
    for i, side in enumerate(('rows', 'columns')):
      ordered = sorted(grid['cells'], key=lambda cell: cell['levels'][i : i + 1])
      grid[side] = list(dict.fromkeys(cell['place'][i] for cell in ordered))
  return list(grids.values())


def _largest(manifest: Mapping) -> list[str]:
  """The axes, those of most levels first."""
  levels = [_levels(cell) for cell in manifest['cells']]
  return sorted(manifest['axes'], key=lambda axis: -len({found[axis] for found in levels}))


def _title(axis: str) -> str:
  return MEASURES[axis].title if axis in MEASURES else axis.replace('_', ' ')


def _name(axis: str) -> str:
  """With its unit, if it is known."""
  return MEASURES[axis].name if axis in MEASURES else _title(axis)


def _levels(cell: Mapping) -> dict[str, str]:
  """{axis: level} of a cell's name."""
  return dict(part.split('=') for part in cell['name'].split()[1:])


def _order(level: str) -> float:
  return float('inf') if level == table_lib.UNKNOWN else float(level)


def _range(manifest: Mapping, axis: str, level: str) -> str:
  """The scores of a level of an axis, for people."""
  if level == table_lib.UNKNOWN:
    return level
  edges = ['', *(f'{edge:.3g}' for edge in manifest['edges'][axis]), '']
  low, high = edges[int(level)], edges[int(level) + 1]
  if low and high:
    return f'{low} to {high}'
  return f'from {low}' if low else f'below {high}' if high else 'all'
