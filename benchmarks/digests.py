"""What digests cost: their share of a save, in CPU seconds.

  python -m benchmarks.digests [--megabytes=256] [--tensors=400] [--pairs=20]

Digests and a save of the same state take turns. Steps cost nothing: digests are computed when a
state is saved.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from i2vgen_jax.stored import digests


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--megabytes', type=int, default=256)
  parser.add_argument('--tensors', type=int, default=400)
  parser.add_argument('--pairs', type=int, default=20)
  options = parser.parse_args()
  size = options.megabytes * 250_000 // options.tensors
  draw = np.random.default_rng(0)
  state = {
    f'{index}': jnp.asarray(draw.standard_normal((size // 64, 64), np.float32))
    for index in range(options.tensors)
  }
  digests.of_tree(state)  # Compiles.
  shares, saves = [], []
  with tempfile.TemporaryDirectory() as folder:
    for pair in range(options.pairs):
      begun = time.process_time()
      digests.of_tree(state)
      digested = time.process_time()
      ocp.save(pathlib.Path(folder) / f'{pair}', state)
      saves.append(time.process_time() - digested)
      shares.append((digested - begun) / saves[-1])
      jax.tree.map(lambda path: path.unlink(), list(pathlib.Path(folder).rglob('d/*')))
  mean = statistics.mean(shares)
  half = 2 * statistics.stdev(shares) / len(shares) ** 0.5
  print(
    f'{options.megabytes} MB in {options.tensors} tensors: a save takes '
    f'{statistics.mean(saves):.2f} CPU s, its digests {100 * mean:.1f} % of that '
    f'({100 * (mean - half):.1f} to {100 * (mean + half):.1f} %, {len(shares)} pairs)'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
