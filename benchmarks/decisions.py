"""Curate's decisions: memory and CPU seconds per million examples.

  python -m benchmarks.decisions [--num_examples 1000000]

Rows as ingest and curate write them, in shards of 4,096, with random fingerprints of which one in
twenty is a copy; made anew whenever they are read, as if from disk. What is printed is the growth
of the memory that this process holds (RssAnon: pages of files, which the system may drop, do not
count) to its peak, and the CPU time with all threads.
"""

import argparse
import pathlib
import threading
import time

import numpy as np

from data_pipelines.corpus import schema
from data_pipelines.curate import decide, denylist, duplicates, proof

SHARD = 4096


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_examples', type=int, default=1_000_000)
  num_examples = parser.parse_args().num_examples
  num_shards = -(-num_examples // SHARD)
  rows(0)
  decide.Decisions(rows, [False], decide.Rules(), denylist.Lists(), True)
  peak, start = Peak(), time.process_time()
  decisions = decide.Decisions(rows, [False] * num_shards, decide.Rules(), denylist.Lists(), True)
  compared = time.process_time()
  for shard in range(num_shards):
    decisions.rows(shard)
  seconds = time.process_time() - start
  millions = decisions.num_examples / 1e6
  print(
    f'{decisions.num_examples:,} examples, {decisions.num_kept:,} kept: '
    f'{peak.end() / millions / 1e9:.3f} GB and {seconds / millions:.0f} CPU s per '
    f'million ({(compared - start) / millions:.0f} to compare), making the rows included'
  )


def rows(shard):
  rng = np.random.default_rng(shard)
  hashes_NF = rng.integers(1, 2**63, (SHARD, 3), dtype=np.uint64)
  parts_NP = rng.integers(1, 2**63, (SHARD, len(duplicates.PARTS)), dtype=np.uint64)
  points = np.zeros((SHARD, 32), proof.POINT)
  points['hash'] = rng.integers(0, 2**63, points.shape, dtype=np.uint64)
  points['place'] = rng.integers(0, 256, (*points.shape, 2))
  copied, copies = rng.integers(0, SHARD, (2, SHARD // 20))
  hashes_NF[copies] = hashes_NF[copied] ^ np.uint64(9)
  points[copies] = points[copied]
  empty = {name: None for name in (*schema.SIDECAR.names, *schema.CURATE.names)}
  digests = rng.bytes(32 * SHARD)
  return [
    dict(
      empty, key=f'{shard}/{i}', media='video', height=360, width=640, flags=[],
      sha256=digests[32 * i : 32 * i + 32].hex(), num_bytes=100_000, hashes=hashes_NF[i].tolist(),
      part_hashes=parts_NP[i].tolist(), points=[points[i].tobytes()] * 3,
      span_start=0.0, span_end=5.0, motion=0.05, border_area=0.0,
    )
    for i in range(SHARD)
  ]  # fmt: skip


class Peak:
  """Watches the memory of this process from now on."""

  def __init__(self):
    self._first = self._most = anonymous_bytes()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()

  def _watch(self):
    while not self._ended.wait(0.02):
      self._most = max(self._most, anonymous_bytes())

  def end(self):
    """Bytes from the first to the peak."""
    self._ended.set()
    self._thread.join()
    return self._most - self._first


def anonymous_bytes():
  status = pathlib.Path('/proc/self/status').read_text()
  [kilobytes] = (line.split()[1] for line in status.splitlines() if line.startswith('RssAnon:'))
  return 1024 * int(kilobytes)


if __name__ == '__main__':
  main()
