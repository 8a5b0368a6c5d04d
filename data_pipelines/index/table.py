"""Cells: groups of a corpus's rows that training draws from in given shares.

Without an index a corpus is one cell. With one (python -m data_pipelines index) the cells are
quantiles of the scores, and their shares are evened out: share ~ size^(1 - alpha).
"""

import dataclasses
import functools
import itertools
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines.corpus import aspects, reader, schema, storage
from data_pipelines.corpus import buckets as buckets_lib

VERSION = 1
UNKNOWN = 'unknown'
COLUMNS = ('first_time', 'duration', 'fps')
WHOLE = (0.0, 0.0, 1.0, 1.0)  # schema.CONTENT of a frame without borders.


@dataclasses.dataclass(frozen=True)
class Balance:
  """How unlike the corpus the draws may be.

  Attributes:
    alpha: 0 draws every row alike, 1 every cell.
    max_epochs: no cell is gone through more often in num_draws draws; 0 for no bound.
    num_draws: of the whole run, for max_epochs.
    unknown_weight: factor on the share of cells with an unknown score.
  """

  alpha: float = 0.0
  max_epochs: float = 0.0
  num_draws: int = 0
  unknown_weight: float = 1.0

  def __post_init__(self):
    problems = []
    if not 0 <= self.alpha <= 1:
      problems.append(f'alpha={self.alpha} should be in [0, 1]')
    for name in ('max_epochs', 'num_draws'):
      if getattr(self, name) < 0:
        problems.append(f'{name}={getattr(self, name):g} should be 0, for no bound, or above')
    if self.max_epochs and not self.num_draws:
      problems.append(
        f'max_epochs={self.max_epochs:g} lacks num_draws: give --num_draws=N, the examples that '
        'the run will draw (steps x batch size)'
      )
    if self.num_draws and not self.max_epochs:
      problems.append(
        f'num_draws={self.num_draws} lacks max_epochs: give --max_epochs=E, how often a run of so '
        'many draws may go through any cell; or leave --num_draws out, for no bound'
      )
    if self.unknown_weight <= 0:
      problems.append(
        f'unknown_weight={self.unknown_weight} should be > 0; drop such rows with --where instead'
      )
    if problems:
      raise ValueError('; '.join(problems) + '.')


@dataclasses.dataclass(frozen=True)
class Cell:
  """Rows of one cell that fill a bucket: places in the table, and the corpus that they are of.

  The corpus is '' where corpora are not told apart.
  """

  name: str
  places: range | np.ndarray
  source: str = ''


class Table:
  """Rows in the order of their cells; rows, columns and fingerprint are attributes as well.

  Args:
    corpora: whose rows they are.
    rows: numbers in reader.Corpora, (N,); None if they are the places themselves.
    columns: COLUMNS by place, (N,) each; memory-mapped if they come from an index. If anything is
      cropped to its content also 'content', schema.CONTENT as float32 (N, 4); if `curate` has
      measured it also 'motion', frame diagonals per second, NaN where it is unknown; if rows are
      there several times, for several shots, also 'span', uint32, the shot in its video.
    cells: name, media, places [start, stop], min_duration (seconds) and min_fps of each.
    balance: how the cells are drawn.
    fingerprint: changes with the corpora, their order, cells and shares.
  """

  def __init__(
    self,
    corpora: reader.Corpora,
    rows: np.ndarray | None,
    columns: Mapping[str, np.ndarray],
    cells: Sequence[Mapping[str, Any]],
    balance: Balance,
    fingerprint: str,
  ):
    self.rows = rows
    self.columns = columns
    self.fingerprint = fingerprint
    self._corpora = corpora
    self._cells = cells
    self._balance = balance
    self._assigned: dict[tuple, np.ndarray] = {}

  def row(self, place: int | np.integer) -> int:
    """The row in reader.Corpora at a place."""
    return int(place if self.rows is None else self.rows[place])

  def content(self, place: int | np.integer) -> tuple[float, ...]:
    """schema.CONTENT of the row at a place; () is the whole frame."""
    if 'content' not in self.columns:
      return ()
    found = tuple(self.columns['content'][place].tolist())
    return () if found == WHOLE else found

  def span(self, place: int | np.integer) -> int:
    """Which shot of its video the row at a place is; 0 where they are not told apart."""
    return int(self.columns['span'][place]) if 'span' in self.columns else 0

  def motion(self, place: int | np.integer) -> float:
    """Of the row at a place, frame diagonals per second; NaN if it is unknown."""
    return float(self.columns['motion'][place]) if 'motion' in self.columns else math.nan

  def knows_motion(self) -> bool:
    """Whether the motion of any row is known."""
    column = self.columns.get('motion', ())
    parts = range(0, len(column), 2**20)
    return any(bool(np.isfinite(column[i : i + 2**20]).any()) for i in parts)

  def eligible(self, bucket: buckets_lib.Bucket, by_source: bool = False) -> list[Cell]:
    """The cells as far as they fill the bucket; with by_source, each corpus has its own.

    A cell whose every row does takes no memory; of another, the places are held (4 bytes each).

    Raises:
      ValueError: no row fills the bucket.
    """
    found = self.filling(bucket, by_source)
    if not found:
      raise ValueError(self.nothing_fits(bucket))
    return found

  def filling(self, bucket: buckets_lib.Bucket, by_source: bool = False) -> list[Cell]:
    """As `eligible`, also where there is none: an aspect that no example has."""
    found = []
    for cell in self._cells:
      if cell['media'] == bucket.media:
        for source, part in self._parts(range(*cell['places']), by_source):
          places = self._places(bucket, cell, part)
          if len(places):
            found.append(Cell(f'{cell["name"]} {source}'.strip(), places, source))
    return found

  def assigned(self, framing: aspects.Framing) -> np.ndarray:
    """aspects.Framing.assign of the rows' contents, by place: uint8 (N,)."""
    key = (framing.sizes, framing.max_crop, framing.max_enlarge)
    if key not in self._assigned:
      self._assigned[key] = framing.assign(*self._sizes())
    return self._assigned[key]

  def count(self, framing: aspects.Framing, media: str) -> dict[str, int]:
    """aspects.Framing.count of the rows of a kind of media."""
    return framing.tally(self._of_media(self.assigned(framing), media))

  def measures(self, media: str) -> dict[str, np.ndarray]:
    """duration (seconds), fps, height and width (pixels, of the content) of the rows of a kind of
    media."""
    arrays = dict(zip(('height', 'width'), self._sizes(), strict=True))
    arrays |= {name: self.columns[name] for name in ('duration', 'fps')}
    return {name: self._of_media(array, media) for name, array in arrays.items()}

  def _of_media(self, array: np.ndarray, media: str) -> np.ndarray:
    mine = [slice(*cell['places']) for cell in self._cells if cell['media'] == media]
    return np.concatenate([array[:0], *(array[part] for part in mine)])

  def _sizes(self) -> tuple[np.ndarray, np.ndarray]:
    """(heights, widths) of the rows' contents by place, pixels."""
    names = ('height', 'width')
    whole = self._corpora.sizes
    heights, widths = (whole[n] if self.rows is None else whole[n][self.rows] for n in names)
    if 'content' in self.columns:
      shares = self.columns['content']
      heights, widths = aspects.content_size(heights, widths, shares[:, 2], shares[:, 3])
    return heights, widths

  def shares(
    self, found: list[Cell], share_of_draws: float = 1.0, sources: Mapping[str, float] | None = None
  ) -> np.ndarray:
    """Shares of the draws of a bucket's cells, which sum to 1.

    Args:
      found: of `eligible`.
      share_of_draws: the bucket's, of the draws of the run.
      sources: weights of corpora, if the cells are by source.
    Raises:
      ValueError: none of the cells is of the sources, or max_epochs allows too few draws.
    """
    counts = np.array([len(cell.places) for cell in found], float)
    is_unknown = np.array([UNKNOWN in cell.name for cell in found])
    if not sources:
      return balanced_shares(counts, is_unknown, self._balance, share_of_draws)
    of_source = {name: np.array([cell.source == name for cell in found]) for name in sources}
    total = sum(weight for name, weight in sources.items() if of_source[name].any())
    if not total:
      raise ValueError(
        f'none of the sources {tuple(sources)} has rows that fill it: let it rest, or name another.'
      )
    shares = np.zeros(len(found))
    for name, weight in sources.items():
      mine = of_source[name]
      if mine.any():
        draws = share_of_draws * weight / total
        inner = balanced_shares(counts[mine], is_unknown[mine], self._balance, draws)
        shares[mine] = weight / total * inner
    return shares

  def _parts(self, places: range, by_source: bool) -> list[tuple[str, range]]:
    """(name of a corpus or '', its places): a cell's rows ascend, so those of a corpus adjoin."""
    if not by_source:
      return [('', places)]
    bounds = self._corpora.corpus_starts
    if self.rows is not None:
      bounds = places.start + np.searchsorted(self.rows[places.start : places.stop], bounds)
    bounds = np.clip(bounds, places.start, places.stop).tolist()
    pairs = zip(self._corpora.names, itertools.pairwise(bounds), strict=True)
    return [(name, range(*pair)) for name, pair in pairs]

  def _places(
    self, bucket: buckets_lib.Bucket, cell: Mapping[str, Any], places: range
  ) -> range | np.ndarray:
    part = slice(places.start, places.stop)
    fits: bool | np.ndarray = True
    if bucket.media == 'video' and not buckets_lib.fills(
      bucket, cell['min_duration'], cell['min_fps']
    ):
      fits = buckets_lib.fills(bucket, self.columns['duration'][part], self.columns['fps'][part])
    if bucket.framing:
      fits = fits & (self.assigned(bucket.framing)[part] == bucket.framing.sizes.index(bucket.size))
    if np.all(fits):
      return places
    small = np.uint32 if places.stop < 2**32 else np.uint64
    return (np.flatnonzero(fits) + places.start).astype(small)

  def nothing_fits(self, bucket: buckets_lib.Bucket) -> str:
    """Why no row fills the bucket, or any aspect of its group, and what would."""
    whole = dataclasses.replace(bucket, framing=None)
    if bucket.framing and self.filling(whole):
      counts = self.count(bucket.framing, bucket.media)
      return (
        f'bucket {bucket.group!r} fits no {bucket.media} by its size. By aspect: '
        f'{aspects.text_of(counts)}. Raise data.max_crop={bucket.framing.max_crop} or '
        f'data.max_enlarge={bucket.framing.max_enlarge}, or give aspects that fit.'
      )
    of_media = (self._of_media(self.columns[name], bucket.media) for name in ('duration', 'fps'))
    return buckets_lib.nothing_fits(bucket, *of_media)


def balanced_shares(
  counts: np.ndarray, is_unknown: np.ndarray, balance: Balance, share_of_draws: float = 1.0
) -> np.ndarray:
  """Shares of cells, which sum to 1.

  Args:
    counts: float (N,), rows of the cells.
    is_unknown: bool (N,), whether a score of the cell is not known.
    balance: how they are drawn.
    share_of_draws: of balance.num_draws, that these cells get together.
  Raises:
    ValueError: the draws are more than max_epochs epochs of all cells together.
  """
  wanted = counts ** (1 - balance.alpha) * np.where(is_unknown, balance.unknown_weight, 1.0)
  wanted /= wanted.sum()
  if not balance.max_epochs:
    return wanted
  num_draws = balance.num_draws * share_of_draws
  most = balance.max_epochs * counts / num_draws
  if most.sum() < 1:
    raise ValueError(
      f'{num_draws:.0f} draws are {num_draws / counts.sum():.1f} epochs of {counts.sum():.0f} '
      f'rows, more than max_epochs={balance.max_epochs:g}: index again with a larger --max_epochs '
      'or fewer --num_draws.'
    )
  capped = np.zeros(len(counts), bool)
  while True:  # What the capped cells may not take goes to the others in proportion.
    free = 1 - most[capped].sum()
    shares = np.where(capped, most, free * wanted / max(wanted[~capped].sum(), 1e-300))
    over = (shares > most * (1 + 1e-12)) & ~capped
    if not over.any():
      return shares
    capped |= over


def whole(corpora: reader.Corpora) -> Table:
  """Corpora without an index: one cell for each kind of media."""
  columns = corpora.columns
  order = None
  cells, start = [], 0
  codes = columns['media']
  if len(codes) and codes.min() != codes.max():
    order = np.argsort(codes, kind='stable')
  counts = np.bincount(codes, minlength=len(schema.MEDIA))
  for media, count in zip(schema.MEDIA, counts, strict=True):
    if count:
      places = [start, start + int(count)]
      cells.append(dict(name=media, media=media, places=places, min_duration=-1.0, min_fps=0.0))
      start += int(count)
  taken = {name: columns[name] if order is None else columns[name][order] for name in COLUMNS}
  return Table(corpora, order, taken, cells, Balance(), '-'.join(corpora.fingerprints))


def read_manifest(directory: epath.PathLike) -> dict:
  """The manifest of an index; raises ValueError if there is none."""
  path = epath.Path(directory) / 'manifest.json'
  if not path.exists() or not (manifest := storage.read_json(path)).get('cells'):
    raise ValueError(
      f'{directory} holds no index (manifest.json with cells). '
      'Make one: python -m data_pipelines index --corpus=DIR '
      f'--output={shlex.quote(str(directory))}'
    )
  if manifest['version'] != VERSION:
    raise ValueError(f'{path} is of version {manifest["version"]}, not {VERSION}: index again.')
  return manifest


def read(directory: epath.PathLike, corpora: reader.Corpora) -> Table:
  """The table of an index, memory-mapped.

  Raises:
    ValueError: no index, or one of other corpora.
  """
  manifest = read_manifest(directory)
  indexed = {name: found['fingerprint'] for name, found in manifest['corpora'].items()}
  opened = dict(zip(corpora.names, corpora.fingerprints, strict=True))
  if list(indexed.values()) != list(opened.values()):
    for name, found, earlier in zip(opened, indexed.values(), corpora.earlier, strict=False):
      if found in earlier:
        raise ValueError(
          f'the corpus {name!r} has grown since the index {directory} was made: run python -m '
          'data_pipelines index with the same flags again, but another --output: to go on in '
          'mid-epoch, a run that has drawn by this index needs it as it is.'
        )
    raise ValueError(
      f'index {directory} is of the corpora {indexed}, but data.directories are {opened}: '
      'give the same, by the same names, or index again.'
    )
  load = functools.partial(_map, epath.Path(directory))
  columns = {name: load(name) for name in COLUMNS}
  if manifest.get('is_cropped'):
    columns['content'] = load('content')
  if manifest.get('has_motion'):
    columns['motion'] = load('motion')
  if manifest.get('has_spans'):
    columns['span'] = load('span')
  balance = Balance(**manifest['balance'])
  return Table(corpora, load('order'), columns, manifest['cells'], balance, manifest['fingerprint'])


def _map(directory: epath.Path, name: str) -> np.ndarray:
  [path] = directory.glob(f'{name}.*.npy')
  with storage.fetched(path) as local:  # A copy's space is free again when its map is gone.
    return np.load(local, mmap_mode='r')
