"""What the guard and the watchdog cost: their share of a training step, in CPU seconds.

  python -m benchmarks.oversight [--width=1.0] [--max_pairs=400]

The demo's step as it ships, within the watchdog's phases of the training loop, and the same step
without both take turns, each on a state of its own, until the interval of the median share is
narrower than --width percent. It is that between order statistics, which outliers do not move.
"""

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from unittest import mock

import jax

from configs import demo
from data_pipelines import demo_corpus
from data_pipelines.ingest import command as ingest
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import xla_profiles
from i2vgen_jax.process import watchdog as watchdog_lib
from i2vgen_jax.training import data
from i2vgen_jax.training import step as step_lib

MIN_PAIRS = 20


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--width', type=float, default=1.0)
  parser.add_argument('--max_pairs', type=int, default=400)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    demo_corpus.write(f'{folder}/demo', num_videos=16, num_validation=4, num_images=4)
    ingest.ingest(f'{folder}/demo/webvid', f'{folder}/videos', num_processes=1)
    config = demo.get_config(f'corpus={folder},images=0')
    session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh)).load_frozen()
    stream = data.make_stream(session)
    bucket = stream.buckets[0].name
    batch = mesh_lib.place_batch(stream.batch_at(0), session.mesh)
    stream.close()
  limits = {kind: config.watchdog[f'{kind}_secs'] for kind in watchdog_lib.KINDS}
  watched = watchdog_lib.Watchdog(limits)
  plain = mock.patch.object(step_lib.guard_lib, 'judge', keep_all)
  sides = [
    Side(session, bucket, batch, contextlib.nullcontext(), watched),
    Side(session, bucket, batch, plain, watchdog_lib.Watchdog({})),
  ]
  watched.enter('step')
  shares, secs, low, high = [], [], 0.0, 100.0
  while len(shares) < MIN_PAIRS or (high - low > options.width and len(shares) < options.max_pairs):
    order = sides if len(shares) % 2 else sides[::-1]
    taken = {side: side.step() for side in order}
    secs.append(taken[sides[1]])
    shares.append(100 * (taken[sides[0]] / secs[-1] - 1))
    ranked, half = sorted(shares), 0.98 * len(shares) ** 0.5  # 1.96 binomial deviations.
    low = ranked[max(0, math.floor(len(shares) / 2 - half))]
    high = ranked[min(len(shares) - 1, math.ceil(len(shares) / 2 + half))]
  watched.close()
  print(
    f'a step takes {statistics.median(secs):.2f} CPU s; guard and watchdog '
    f'{statistics.median(shares):+.2f} % of that '
    f'({low:+.2f} to {high:+.2f} %, {len(shares)} pairs)'
  )
  return 0


def keep_all(guard, step, loss, norm, skip_norm):
  """guard.judge of a run that skips nothing."""
  return True, guard


class Side:
  """One of the two: its program, its state, and the watchdog of its loop."""

  def __init__(self, session, bucket, batch, patch, watchdog):
    self._frozen, self._batch, self._watchdog = session.frozen, batch, watchdog
    with patch:
      _, shardings, init, of_loss = step_lib.from_config(session)
      self._state = xla_profiles.jit_once(init, out_shardings=shardings)()
      step = step_lib.by_bucket(session, of_loss)(bucket)
      self._compiled = step.lower(self._state, self._frozen, self._batch).compile()
    self.step()

  def step(self) -> float:
    """CPU seconds of a step."""
    started = time.process_time()
    for kind in ('validation', 'input'):
      with self._watchdog.within(kind):
        pass
    self._state, metrics = self._compiled(self._state, self._frozen, self._batch)
    jax.block_until_ready((self._state, metrics))
    return time.process_time() - started


if __name__ == '__main__':
  sys.exit(main())
