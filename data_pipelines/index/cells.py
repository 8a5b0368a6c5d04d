"""The cells of an index: rows by quantiles of their scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from data_pipelines.corpus import schema, storage
from data_pipelines.index import table as table_lib


def quantile_edges(
  rows: Mapping[str, np.ndarray], axes: Sequence[str], quantiles: int
) -> dict[str, list[float]]:
  """Inner edges per axis, over the known scores; equal ones are merged.

  Raises ValueError unless there is one quantile or more.
  """
  if quantiles < 1:
    raise ValueError(f'quantiles={quantiles} should be >= 1.')
  edges = {}
  for i, axis in enumerate(axes):
    scores = rows[f'score_{i}']
    known = scores[np.isfinite(scores)]
    shares = np.arange(1, quantiles) / quantiles
    found = np.unique(np.quantile(known, shares)) if len(known) else np.zeros(0)
    edges[axis] = [float(edge) for edge in found]
  return edges


def read_edges(path: str, axes: Sequence[str]) -> dict[str, list[float]]:
  """Inner edges per axis of a cells.json; raises ValueError if it lacks one."""
  edges = storage.read_json(epath.Path(path), 'edges')['edges']
  missing = [axis for axis in axes if axis not in edges]
  if missing:
    raise ValueError(f'{path} has no edges for {missing}, only for {list(edges)}.')
  return {axis: edges[axis] for axis in axes}


def group(
  rows: Mapping[str, np.ndarray], axes: Sequence[str], edges: Mapping[str, list[float]]
) -> tuple[np.ndarray, list[dict]]:
  """(order of the rows, cells): media first, then the scores, an unknown one last of its axis."""
  sizes = [len(edges[axis]) + 2 for axis in axes]
  most = len(schema.MEDIA) * math.prod(sizes)
  code = rows['media_code'].astype(np.min_scalar_type(most))  # 16 bits sort in place of 64.
  for i, axis in enumerate(axes):
    scores = rows[f'score_{i}']
    level = np.searchsorted(edges[axis], scores, side='right').astype(code.dtype)
    level[~np.isfinite(scores)] = sizes[i] - 1
    code *= code.dtype.type(sizes[i])
    code += level
  order = np.argsort(code, kind='stable').astype(rows['row'].dtype)
  code = code[order]
  starts = [0, *(1 + np.flatnonzero(np.diff(code))).tolist()] if len(code) else []
  codes, stops = code[starts], [*starts[1:], len(order)]
  found = []
  for cell_code, start, stop in zip(codes.tolist(), starts, stops, strict=True):
    levels = []
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
      cell_code, level = divmod(cell_code, size)
      levels.append(f'{axis}={table_lib.UNKNOWN if level == size - 1 else level}')
    places = order[start:stop]
    found.append(
      dict(
        name=' '.join([schema.MEDIA[cell_code], *reversed(levels)]),
        media=schema.MEDIA[cell_code],
        places=[start, stop],
        min_duration=float(rows['duration'][places].min()),
        min_fps=float(rows['fps'][places].min()),
      )
    )
  return order, found
