"""Where shots end by a network, written beside a corpus for `curate` to read.

The network needs JAX and comes as an argument: the command is `python -m i2vgen_jax.score --shots`.
Shards are resumed as by jobs.py. `curate` takes these transitions in place of those that it would
find itself.
"""

import collections
import concurrent.futures
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import av.video.reformatter
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import jobs, reader, records, schema, storage
from data_pipelines.media import containers, decode, display, failures, frames, sandbox
from data_pipelines.score import placing

VERSION = 1
STAGE = 'shots'
THRESHOLD = 0.5  # The authors' own.
CUT = 2  # Frames that a hard cut may have.
MARGIN = 0.1  # A gradual transition is made longer at either side, by this share.


class Network(Protocol):
  """TransNetV2, as `i2vgen_jax.evaluation.shot_network` has it.

  Attributes:
    size: (height, width) of the frames.
  """

  size: tuple[int, int]

  def __call__(self, frames_FHWC: np.ndarray) -> np.ndarray:
    """float32 (2, F) of uint8 RGB frames: of a transition's one frame, and of any of its."""


def find(directory: str, network: Network, weights: str, num_threads: int = 2) -> dict:
  """Writes sidecar/shots/ of the corpus in `directory`.

  Args:
    directory: of the corpus, as ingest wrote it.
    network: finds transitions.
    weights: the file that the network came from: another one does all anew.
    num_threads: that decode, each in a child process.
  Returns:
    The stage's manifest.
  Raises:
    ValueError: the folder holds no corpus.
  """
  output, manifest = epath.Path(directory), reader.read_manifest(directory)
  digest = storage.sha256(epath.Path(weights))
  shards = [shard for _, shard in reader.shards_of(manifest)]
  parts = output / '_shots'
  identity = json.dumps([VERSION, reader.first_fingerprint(manifest), digest])
  with jobs.claimed(parts, identity, stamps=[shard['sha256'] for shard in shards]):
    work = _FindInShard(output, network, num_threads)
    results = jobs.run(work, shards, parts, num_processes=1)
    work.close()
    failed = jobs.failures_of(results, parts)
    marker = placing.place(output, STAGE, parts, 'shots.parquet', shards)
  summary = dict(
    version=VERSION,
    corpus=manifest['fingerprint'],
    weights=digest,
    num_examples=sum(result['num_examples'] for result in results),
    num_transitions=sum(result['num_transitions'] for result in results),
    failed=failed,
  )
  storage.write_bytes(marker, json.dumps(summary, indent=2).encode())
  return summary


def spans(probability_2F: np.ndarray) -> list[tuple[int, int]]:
  """(first frame that is no longer the shot before alone, first frame of the next) of transitions.

  Args:
    probability_2F: as of Network. The one frame of a hard cut is the last before it.
  """
  # The first output alone, which the authors cut at, misses dissolves that the second one sees.
  is_in_F = np.any(probability_2F > THRESHOLD, axis=0)
  edges = np.flatnonzero(np.diff(np.concatenate([[0], is_in_F.astype(np.int8), [0]])))
  found = []
  for first, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
    if stop - first <= CUT:  # The first is still of the shot before.
      found.append((first + 1, stop))
      continue
    margin = int(MARGIN * (stop - first))
    found.append((max(0, first - margin), min(probability_2F.shape[1], stop + margin)))
  return found


@dataclasses.dataclass
class _FindInShard:
  """(shard of the manifest, folder) -> shots.parquet, one row per record."""

  output: epath.Path
  network: Network
  num_threads: int

  def __post_init__(self):
    self._decode = sandbox.Sandbox(decode_small)

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    rows, example, num_transitions = [], '', 0
    failed: collections.Counter = collections.Counter()
    sidecar = storage.read_table(self.output / shard['sidecar']).to_pylist()
    with concurrent.futures.ThreadPoolExecutor(self.num_threads) as threads:
      for known, loaded in zip(sidecar, self._loaded(shard, sidecar, threads), strict=True):
        row: dict[str, Any] = dict(key=known['key'], transitions=None)
        if isinstance(loaded, Exception):  # Null: one example never ends a command.
          lost = failures.of(loaded)
          logging.warning('%s: %s', known['key'], lost)
          failed[lost.reason] += 1
          example = f'{known["key"]}: {lost}'
        elif known['media'] == 'video':
          times, frames_FHWC = loaded
          ends = spans(self.network(frames_FHWC)) if len(times) else []
          row['transitions'] = [
            dict(start=times[start], end=times[min(stop, len(times) - 1)]) for start, stop in ends
          ]
          num_transitions += len(ends)
        rows.append(row)
    table = pa.Table.from_pylist(rows, schema.SHOTS)
    pa.parquet.write_table(table, folder / 'shots.parquet', write_page_checksum=True)
    counts = dict(num_examples=len(rows), num_transitions=num_transitions)
    return counts | dict(failed=failed, example=example)

  def _loaded(
    self, shard: dict, sidecar: list[dict], threads: concurrent.futures.Executor
  ) -> Iterator[tuple[list[float], np.ndarray] | Exception]:
    """What is decoded of each record, a few ahead of the network."""
    waiting: collections.deque = collections.deque()
    found = records.read(self.output / shard['records'])
    for known, record in zip(sidecar, found, strict=True):
      waiting.append(threads.submit(self._load, known, record))
      if len(waiting) > 2 * self.num_threads:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()

  def _load(self, known: Mapping, record: dict | Exception):
    if isinstance(record, Exception):
      return record
    if known['media'] != 'video':
      return [], np.zeros((0, *self.network.size, 3), np.uint8)
    try:
      end = known['first_time'] + known['duration']
      return self._decode(record['data'], *self.network.size, end)
    except Exception as error:
      return error

  def close(self) -> None:
    """Ends the children that decode."""
    self._decode.close()


def decode_small(
  data: bytes, height: int, width: int, end: float
) -> tuple[list[float], np.ndarray]:
  """(presentation times, all frames, uint8 (F, height, width, 3), squeezed) of a video.

  Args:
    data: an encoded file.
    height: of the frames.
    width: of the frames.
    end: presentation time of the last frame that is looked at; what follows may be damaged.
  """
  convert = decode.Converter('rgb24')
  flags = av.video.reformatter.Interpolation.BICUBIC
  times, found = [], []
  with containers.open_video(data) as video:
    for frame in frames.decode_all(video):
      if frame.time > end + 1e-6:
        break
      turn = display.orientation(frame)
      times.append(frame.time)
      found.append(convert(frame, height, width, flags, turn).copy())
  return times, np.stack(found)
