"""Caption a shard: which shots are asked of a captioner, the frames that it sees, its answers."""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.caption import captioners
from data_pipelines.corpus import jobs, records, schema, storage
from data_pipelines.media import crops, decode, failures, sandbox

ALT = 'alt'  # The source of what came with the example.
BATCH = 32  # Clips that a captioner is given at a time.
MAX_SIDE = 512  # Pixels of the frames that it sees.
_FILE = 'captions.parquet'
_ANSWERS = pa.schema(
  [
    ('row', pa.int64()),  # In the shard.
    ('span_id', pa.int32()),  # Null is the whole record.
    ('start', pa.float64()),
    ('end', pa.float64()),
    ('text', pa.string()),  # Null is what could not be decoded or answered.
  ]
)


@dataclasses.dataclass(frozen=True)
class Source:
  """One captioner's part.

  Attributes:
    name: of its captions' source.
    captioner: that writes them.
    num_frames: of a video that it sees.
  """

  name: str
  captioner: captioners.Captioner
  num_frames: int = 4

  def __post_init__(self):
    if not re.fullmatch(r'[A-Za-z0-9_.-]+', self.name) or self.name == ALT:
      raise ValueError(
        f'--source={self.name} should be letters, digits, "_", "-" and ".", and not {ALT!r}.'
      )


class Shot(NamedTuple):
  """What is asked: a row of a shard, its shot (None for all of the record) and times, seconds."""

  row: int
  span_id: int | None
  start: float
  end: float


def shots(output: epath.Path, shard: Mapping[str, Any]) -> tuple[list[dict], list[Shot]]:
  """(rows of the sidecar, what is asked of them): what curate keeps, if it has run."""
  known = storage.read_table(output / shard['sidecar']).to_pylist()
  path = output / schema.stage_sidecar('curate', shard['sidecar'])
  found = []
  curated: list[dict] = [{} for _ in known]
  if path.exists():
    names = ['keep', 'span_start', 'span_end']
    curated = storage.read_table(path, names, optional=['spans']).to_pylist()
  for row, (base, more) in enumerate(zip(known, curated, strict=True)):
    if more.get('spans'):
      kept = [span for span in more['spans'] if span['keep']]
      found += [Shot(row, s['span_id'], s['span_start'], s['span_end']) for s in kept]
    elif more.get('keep', True):
      start, end = base['first_time'], base['first_time'] + base['duration']
      if more.get('span_end'):
        start, end = more['span_start'], more['span_end']
      found.append(Shot(row, None, start, end))
  return known, found


def spans(output: epath.Path, shard: Mapping[str, Any]) -> list[set[tuple[int, float, float]]]:
  """(span_id, start, end) of all shots of each row, kept or not; none where curate found none."""
  path = output / schema.stage_sidecar('curate', shard['sidecar'])
  if not path.exists():
    return [set() for _ in range(shard['num_examples'])]
  return [
    {(s['span_id'], s['span_start'], s['span_end']) for s in row.get('spans') or ()}
    for row in storage.read_table(path, ['key'], optional=['spans']).to_pylist()
  ]


def ask_again(output: epath.Path, parts: epath.Path, number: int, shard: Mapping[str, Any]) -> None:
  """Marks a shard as undone if curate keeps shots since that were not asked; answers stay.

  Args:
    output: the corpus.
    parts: of the source.
    number: of the shard.
    shard: of the manifest.
  """
  part = jobs.part(parts, number)
  if not (part / jobs.MARKER).exists():
    return
  answers = storage.read_table(part / _FILE)
  asked = {Shot(*row[:4]) for row in zip(*answers.to_pydict().values(), strict=True)}
  if set(shots(output, shard)[1]) - asked:
    storage.write_table(_old(parts, number), answers)
    storage.remove_folder(part)


def _old(parts: epath.Path, number: int) -> epath.Path:
  return parts / f'answers-{number:05d}.parquet'


class CaptionShard:
  """((number, shard of the manifest), folder) -> captions.parquet, a row for each shot.

  Args:
    output: the corpus.
    source: that is asked.
    parts: of the source, where answers of before may lie.
  """

  def __init__(self, output: epath.Path, source: Source, parts: epath.Path):
    self._output = output
    self._source = source
    self._parts = parts
    self._frames = sandbox.Sandbox(frames_of)

  def __call__(self, numbered: tuple[int, dict], folder: pathlib.Path) -> dict:
    """What cannot be decoded, or gets no answer, becomes a null."""
    number, shard = numbered
    known, wanted = shots(self._output, shard)
    answers = self._answered_before(number)
    waiting: dict[Shot, captioners.Clip] = {}
    failed: collections.Counter = collections.Counter()
    example = ''

    def lose(shot: Shot, error: Exception) -> None:
      nonlocal example
      lost = failures.of(error)
      answers[shot] = None
      failed[lost.reason] += 1
      example = f'{known[shot.row]["key"]}: {lost}'

    def ask() -> None:
      found = self._source.captioner(list(waiting.values())) if waiting else []
      for shot, answer in zip(waiting, found, strict=True):
        if isinstance(answer, Exception):
          lose(shot, answer)
        else:
          answers[shot] = ' '.join(answer.split())
      waiting.clear()

    of_row: dict[int, list[Shot]] = collections.defaultdict(list)
    for shot in wanted:
      if shot not in answers:
        of_row[shot.row].append(shot)
    for row, record in enumerate(records.read(self._output / shard['records'])):
      for shot in of_row.get(row, ()):
        try:
          if isinstance(record, Exception):
            raise record
          frames = self._frames(record['data'], known[row], shot, self._source.num_frames)
          waiting[shot] = captioners.Clip(record['key'], record['caption'], frames)
        except Exception as error:  # One example never ends a command.
          lose(shot, error)
        if len(waiting) == BATCH:
          ask()
    ask()
    rows = [dict(shot._asdict(), text=text) for shot, text in sorted(answers.items(), key=_order)]
    table = pa.Table.from_pylist(rows, _ANSWERS)
    pa.parquet.write_table(table, folder / _FILE, write_page_checksum=True)
    return dict(num_examples=len(wanted), failed=failed, example=example)

  def _answered_before(self, number: int) -> dict[Shot, str | None]:
    path = _old(self._parts, number)
    if not path.exists():
      return {}
    found = storage.read_table(path).to_pylist()
    return {
      Shot(**{name: row[name] for name in Shot._fields}): row['text']
      for row in found
      if row['text']
    }

  def close(self) -> None:
    """Ends the child that decodes."""
    self._frames.close()


def _order(item: tuple[Shot, str | None]) -> tuple[int, float]:
  return item[0].row, item[0].start


def frames_of(data: bytes, known: Mapping[str, Any], shot: Shot, num_frames: int) -> np.ndarray:
  """Frames of a shot, evenly spread: uint8 (F, H, W, 3) of at most MAX_SIDE pixels a side.

  Args:
    data: an encoded file.
    known: its sidecar's row.
    shot: whose frames.
    num_frames: F of a video.
  Raises:
    DecodeError: it is damaged.
  """
  scale = min(1.0, MAX_SIDE / max(known['height'], known['width']))
  height, width = (max(16, round(scale * known[side])) for side in ('height', 'width'))
  if known['media'] == 'image':
    image = decode.decode_image(data)
    return np.asarray(crops.center_crop_resize(image, height, width))[None]
  times = shot.start + (np.arange(num_frames) + 0.5) / num_frames * (shot.end - shot.start)
  return decode.decode_video(data, times, height, width)[0]
