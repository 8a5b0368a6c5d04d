"""What `index` holds in memory: bytes for each row.

  python -m benchmarks.index_memory [--num_rows 1000000] [--duckdb_mb 4096]

Sidecars of a corpus without records, with the columns of ingest, curate and score, in shards of
100,000. DuckDB joins and sorts within its own bound, whatever the number of rows, and a small bound
shows what is held beside. What is printed is the growth to the peak of the memory that the process
holds (RssAnon: pages of files do not count).
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import decisions
from data_pipelines.corpus import schema, sidecars
from data_pipelines.index import command

SHARD = 100_000


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--num_rows', type=int, default=1_000_000)
  parser.add_argument('--duckdb_mb', type=int, default=sidecars.MAX_MEMORY >> 20)
  given = parser.parse_args()
  num_rows, sidecars.MAX_MEMORY = given.num_rows, given.duckdb_mb << 20
  with tempfile.TemporaryDirectory() as folder:
    write(pathlib.Path(folder, 'corpus'), num_rows // SHARD)
    write(pathlib.Path(folder, 'small'), 1)
    command.index({'c': f'{folder}/small'}, f'{folder}/index_small')  # What is loaded once.
    peak = decisions.Peak()
    manifest = command.index({'c': f'{folder}/corpus'}, f'{folder}/index')
    print(
      f'{manifest["num_rows"]:,} rows, {len(manifest["cells"])} cells: '
      f'{peak.end() / manifest["num_rows"]:.0f} bytes each'
    )


def write(folder, num_shards):
  shards = []
  for number in range(num_shards):
    rng = np.random.default_rng(number)
    records, sidecar = schema.shard_names('train', number)
    base = dict(
      key=[f'{number}/{i}' for i in range(SHARD)],
      media=rng.choice(schema.MEDIA, SHARD), duration=rng.uniform(1, 30, SHARD),
      fps=np.full(SHARD, 25.0), height=np.full(SHARD, 360), width=np.full(SHARD, 640),
      first_time=np.zeros(SHARD), longest_gap=np.full(SHARD, 0.04),
      license=pa.nulls(SHARD, pa.string()), url=pa.nulls(SHARD, pa.string()),
    )  # fmt: skip
    curated = dict(
      key=base['key'], keep=rng.random(SHARD) < 0.9, motion=rng.random(SHARD).astype(np.float32),
      span_start=np.zeros(SHARD), span_end=rng.uniform(1, 30, SHARD),
      reject=pa.array([[]] * SHARD, pa.list_(pa.string())),
      dup_group=np.arange(number * SHARD, (number + 1) * SHARD),
    )  # fmt: skip
    scored = dict(
      key=base['key'], aesthetic=rng.random(SHARD).astype(np.float32),
      network_subject=rng.random(SHARD).astype(np.float32),
    )  # fmt: skip
    names = [sidecar, *(schema.stage_sidecar(stage, sidecar) for stage in ('curate', 'score'))]
    for name, columns in zip(names, (base, curated, scored), strict=True):
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      pq.write_table(pa.table(columns), folder / name)
    shards.append(dict(records=records, sidecar=sidecar, num_examples=SHARD))
  train = dict(shards=shards, num_examples=num_shards * SHARD)
  manifest = dict(version=schema.VERSION, fingerprint='x', layout='', num_rejected=0)
  manifest['splits'] = dict(train=train)
  (folder / 'manifest.json').write_text(json.dumps(manifest))
  for stage in ('curate', 'score'):
    (folder / 'sidecar' / stage / 'manifest.json').write_text('{}')


if __name__ == '__main__':
  main()
