"""Changes of a run's data, which is resumed with other corpora, another index, buckets or weights.

What goes on after a change (carry.py) is a file in the run's workdir. It is named by its step and
content, and names the change before it: a checkpoint that holds the name of the newest knows all.

    data_history/STEP-DIGEST.npz   Change
    data_history/now.json          the name of the newest, of the run that config.json tells
"""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data_pipelines import user_errors
from data_pipelines.corpus import reader, retries, storage
from data_pipelines.index import table as table_lib
from data_pipelines.stream import earlier
from data_pipelines.stream import order as order_lib

FOLDER = 'data_history'


@dataclasses.dataclass(frozen=True)
class Origin:
  """What the order of a run's stream is made from; JSON.

  Attributes:
    config: the part of the run's config that tells it, as in config.json.
    corpora: earlier.editions.
    order: fingerprint of the order that they give, without any change.
    change: name of the newest change; '' if there was none.
  """

  config: dict[str, Any]
  corpora: dict[str, earlier.Edition]
  order: str
  change: str = ''

  @classmethod
  def of(cls, config: Mapping[str, Any], corpora: reader.Corpora, order: str) -> 'Origin':
    """Of a run's config, its corpora and their order; raises ValueError as earlier.editions."""
    kept = {name: config[name] for name in ('data', 'seed')}
    kept['image_encoder'] = {
      'model': {'image_size': config['image_encoder']['model']['image_size']}
    }
    if 'refine' in config:
      kept['refine'] = {'levels': config['refine']['levels']}
    return cls(json.loads(json.dumps(kept)), earlier.editions(corpora), order)


@dataclasses.dataclass(frozen=True)
class Change:
  """What a stream goes on from.

  Attributes:
    step: the first one after the change.
    before: the stream before it; None if it is not known.
    after: fingerprint of the order that goes on.
    standings: of its cells, by names of bucket and cell; others begin anew.
  """

  step: int
  before: Origin | None
  after: str
  standings: Mapping[tuple[str, str], order_lib.Standing]

  @functools.cached_property
  def content(self) -> bytes:
    """An .npz: head (JSON) and, by number of the cell, the bits of what comes first."""
    cells = [(*names, at.start, at.first is not None) for names, at in self.standings.items()]
    before = self.before and dataclasses.asdict(self.before)
    head = json.dumps(dict(step=self.step, before=before, after=self.after, cells=cells))
    arrays = {
      str(number): np.packbits(at.first)
      for number, at in enumerate(self.standings.values())
      if at.first is not None
    }
    buffer = io.BytesIO()
    # pyrefly: ignore[bad-argument-type]  # The names are numbers, not numpy's own.
    np.savez(buffer, head=np.frombuffer(head.encode(), np.uint8), **arrays)
    return buffer.getvalue()

  @functools.cached_property
  def name(self) -> str:
    """Of its file, which its content gives."""
    return f'{self.step:08d}-{hashlib.sha256(self.content).hexdigest()[:16]}'

  @classmethod
  def parse(cls, content: bytes) -> 'Change':
    """What `content` says; its bits may be padded to whole bytes."""
    with np.load(io.BytesIO(content)) as arrays:
      head = json.loads(arrays['head'].tobytes())
      standings = {}
      for number, (bucket, cell, start, has_first) in enumerate(head['cells']):
        first = np.unpackbits(arrays[str(number)]).astype(bool) if has_first else None
        standings[bucket, cell] = order_lib.Standing(start, first)
    before = head['before'] and Origin(**head['before'])
    return cls(head['step'], before, head['after'], standings)

  def apply(self, order: order_lib.Order) -> None:
    """Makes an order begin at the change; raises ValueError if it is another than that after it."""
    if order.fingerprint != self.after:
      raise ValueError(f'change {self.name} is to data {self.after}, not to {order.fingerprint}.')
    order.go_on(self.step, self.standings)


class Side(NamedTuple):
  """A stream before or after a change: its order, and the corpora whose rows it draws."""

  order: order_lib.Order
  corpora: reader.Corpora


def reopened(
  origin: Origin, workdir: epath.PathLike, now: Mapping[str, Any]
) -> tuple[Side, Origin]:
  """The stream of a run before a change, and the origin with the paths that it was found at.

  Args:
    origin: that a checkpoint or a change holds.
    workdir: of the run.
    now: config.data of the run as it is now: its paths are tried where corpora or index have moved.

  Raises:
    ValueError: corpora, index or an earlier change are gone, or are others now.
  """
  before = origin.config['data']
  here = {name: now['directories'].get(name, path) for name, path in before['directories'].items()}
  reasons = {}
  for paths in ({}, {'directories': here}, {'directories': here, 'index': now['index']}):
    config = origin.config | {'data': before | paths}
    try:
      side = _open(config, origin)
    except (ValueError, FileNotFoundError) as error:
      reasons[user_errors.message(error) or str(error)] = None  # Each once.
      continue
    if origin.change:
      read(workdir, origin.change).apply(side.order)
    return side, dataclasses.replace(origin, config=config)
  raise ValueError('; '.join(reasons))


def _open(config: Mapping[str, Any], origin: Origin) -> Side:
  """A stream as it began; raises ValueError if what is there now gives another."""
  data = config['data']
  corpora = earlier.as_they_were(data['directories'], origin.corpora)
  if data['index']:
    indexed = table_lib.read_manifest(data['index'])['corpora'].values()
    if [found['fingerprint'] for found in indexed] != corpora.fingerprints:
      raise ValueError(f'index {data["index"]} was made again in the same folder, of other corpora')
  order = order_lib.from_config(config, corpora)
  if order.fingerprint != origin.order:
    raise ValueError(f'index {data["index"]} is another now')
  return Side(order, corpora)


def write(workdir: epath.PathLike, change: Change) -> None:
  """Stores a change in the workdir of its run."""
  storage.write_bytes(epath.Path(workdir) / FOLDER / f'{change.name}.npz', change.content)


def read(workdir: epath.PathLike, name: str) -> Change:
  """A change of a run; raises ValueError if its file is gone or damaged."""
  path = epath.Path(workdir) / FOLDER / f'{name}.npz'
  try:
    content = retries.call(path.read_bytes)
  except FileNotFoundError:
    raise ValueError(f'{path} is gone, by which the data of the run go on: put it back.') from None
  if hashlib.sha256(content).hexdigest()[:16] != name.split('-')[-1]:
    raise ValueError(f'{path} is damaged: put back a copy.')
  return Change.parse(content)


def set_newest(workdir: epath.PathLike, name: str) -> None:
  """Says which change the stream of config.json begins with; '' for none."""
  path = epath.Path(workdir) / FOLDER / 'now.json'
  if newest(workdir) != name:
    storage.write_bytes(path, json.dumps(dict(change=name)).encode())


def newest(workdir: epath.PathLike) -> str:
  """Name of the change that the stream of config.json begins with, or ''."""
  path = epath.Path(workdir) / FOLDER / 'now.json'
  return storage.read_json(path, 'change')['change'] if path.exists() else ''


class Part(NamedTuple):
  """Steps of a run whose data are the same.

  Attributes:
    start: the first one.
    config: that tells the data.
    corpora: as they were; None if they are those of the config.
    change: that it begins with; None if with none.
  """

  start: int
  config: Mapping[str, Any]
  corpora: reader.Corpora | None
  change: Change | None


def parts(workdir: epath.PathLike, config: Mapping[str, Any], step: int = 0) -> list[Part]:
  """The parts of a run, the newest first, as far as steps from `step` on lie in them.

  Args:
    workdir: of the run.
    config: its config.json.
    step: of the run.

  Raises:
    ValueError: the data of before a change are gone or not known.
  """
  name, corpora = newest(workdir), None
  found: list[Part] = []
  later = 'Or look at later steps alone: `peek --step`, `seen --since`.'
  while True:
    change = read(workdir, name) if name else None
    found.append(Part(change.step if change else 0, config, corpora, change))
    if change is None or step >= change.step:
      return found
    if change.before is None:
      raise ValueError(f'the data of the steps before {change.step} are not known. {later}')
    try:
      side, origin = reopened(change.before, workdir, config['data'])
    except ValueError as error:
      lost = f'the data of the steps before {change.step} are gone: {error}'
      raise ValueError(f'{lost}. Put them back. {later}') from error
    config, corpora, name = origin.config, side.corpora, origin.change


def starts_of(corpora: reader.Corpora) -> dict[str, int]:
  """The first row of each corpus, by name."""
  return dict(zip(corpora.names, corpora.corpus_starts, strict=False))


def renumbered(rows: np.ndarray, corpora: reader.Corpora, starts: Mapping[str, int]) -> np.ndarray:
  """Rows of corpora in the numbers of others, int64; -1 where these have not the corpus.

  Args:
    rows: (N,), of `corpora`.
    corpora: whose numbers they are.
    starts: first row of each corpus in the others, by name.
  """
  rows = np.asarray(rows, np.int64)
  number = np.searchsorted(corpora.corpus_starts, rows, side='right') - 1
  moved = [starts.get(name, -1) for name in corpora.names]
  shift = np.array(moved, np.int64) - corpora.corpus_starts[:-1]
  return np.where(np.array(moved)[number] < 0, -1, rows + shift[number])
