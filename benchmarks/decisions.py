"""Curate's decisions: memory and CPU seconds per million examples.

  python -m benchmarks.decisions [--num_examples 1000000] [--sort_mb 4096]
  python -m benchmarks.decisions --compare --num_examples 20000000

Rows as ingest and curate write them, in shards of 4,096, with random hashes of which one in twenty
is a copy; made anew whenever they are read, as if from disk. With --compare only copies are sought,
which is what takes all rows together. What is printed is the growth of the memory that this process
holds (RssAnon: pages of files, which the system may drop, do not count) to its peak, and the CPU
time with all threads. DuckDB sorts within a bound of its own, whatever the number of rows: a small
one shows what is held beside.
"""

import argparse
import pathlib
import tempfile
import threading
import time

import numpy as np

from data_pipelines.corpus import schema
from data_pipelines.curate import decide, denylist, grouping

SHARD = 4096


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_examples', type=int, default=1_000_000)
  parser.add_argument('--sort_mb', type=int, default=grouping.MAX_SORTED >> 20)
  parser.add_argument('--compare', action='store_true')
  given = parser.parse_args()
  num_examples, grouping.MAX_SORTED = given.num_examples, given.sort_mb << 20
  num_shards = -(-num_examples // SHARD)
  if given.compare:
    compare(num_shards)
    return
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


def compare(num_shards):
  with tempfile.TemporaryDirectory() as folder:
    types = dict(digest=(np.uint64, 2), hashes=(np.uint64, 3), num_hashes=np.uint8)
    types |= dict(num_pixels=np.int64, is_held_out=bool, is_denied=bool, is_good=bool)
    facts_N = {}
    for name, dtype in types.items():
      dtype = np.dtype(dtype)
      shape = (num_shards * SHARD, *dtype.shape)
      facts_N[name] = np.memmap(f'{folder}/{name}', dtype.base, 'w+', shape=shape)
    for shard in range(num_shards):
      mine = slice(shard * SHARD, (shard + 1) * SHARD)
      rng = np.random.default_rng(shard)
      facts_N['hashes'][mine] = random_hashes(rng)
      facts_N['digest'][mine] = rng.integers(0, 2**64, (SHARD, 2), dtype=np.uint64)
    facts_N['num_hashes'][:] = 3
    facts_N['is_good'][:] = True
    peak, start = Peak(), time.process_time()
    group_N, _, is_copy_N = decide._compare(facts_N)
    millions = len(group_N) / 1e6
    print(
      f'{len(group_N):,} examples, {is_copy_N.sum():,} copies: {peak.end() / 1e9:.3f} GB and '
      f'{(time.process_time() - start) / millions:.1f} CPU s per million to compare'
    )


def random_hashes(rng):
  hashes_NF = rng.integers(0, 2**64, (SHARD, 3), dtype=np.uint64)
  copied = rng.integers(0, SHARD, SHARD // 20)
  hashes_NF[rng.integers(0, SHARD, SHARD // 20)] = hashes_NF[copied] ^ np.uint64(9)
  return hashes_NF


def rows(shard):
  rng = np.random.default_rng(shard)
  hashes_NF = random_hashes(rng)
  empty = {name: None for name in (*schema.SIDECAR.names, *schema.CURATE.names)}
  digests = rng.bytes(32 * SHARD)
  return [
    dict(
      empty, key=f'{shard}/{i}', media='video', height=360, width=640, flags=[],
      sha256=digests[32 * i : 32 * i + 32].hex(), hashes=hashes_NF[i].tolist(),
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
