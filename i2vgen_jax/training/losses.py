"""The losses that a run reports: means over the steps since the last report, by bucket and by level
of noise.

Steps leave theirs on the devices, and a report fetches them: no step waits for the host.
"""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from i2vgen_jax.diffusion import loss


class Losses:
  """Collects the losses of steps between reports.

  Args:
    timestep_range: (start, stop) of the run, which is cut into loss.NUM_LEVELS parts.
    levels_every: steps after which a report has the means by level too, of all samples since they
      were reported last; 0 never has them.
    first_step: at which the run begins or goes on.
  """

  def __init__(self, timestep_range: Sequence[int], levels_every: int, first_step: int):
    edges = loss.level_edges(timestep_range)
    pairs = zip(edges, edges[1:], strict=False)
    self._names = [f'loss/timesteps_{low}-{high}' for low, high in pairs]
    self._every, self._levels_at = levels_every, first_step
    self._buckets: list[str] = []
    self._found: list[tuple[jax.Array, ...]] = []
    self._levels = np.zeros((2, loss.NUM_LEVELS))

  def add(self, bucket: str, metrics: dict[str, Any]) -> None:
    """Takes `loss` and `levels` out of a step's metrics, and leaves them on the devices.

    Args:
      bucket: its name in the config.
      metrics: of make_train_step, with the `grad_norm`.
    """
    self._buckets.append(bucket)
    self._found.append((metrics.pop('loss'), metrics['grad_norm'], metrics.pop('levels')))

  def report(self, step: int) -> dict[str, float]:
    """Means since the last report: `loss`, `loss/BUCKET` of each bucket that had steps, and when
    they are due `loss/timesteps_START-STOP`.

    Steps whose loss or gradient is not finite do not count; of no other, there is no mean.

    Args:
      step: steps done.
    """
    by_bucket = collections.defaultdict(list)
    for bucket, (value, norm, levels) in zip(
      self._buckets, jax.device_get(self._found), strict=True
    ):
      if np.isfinite(value) and np.isfinite(norm):
        by_bucket[bucket].append(float(value))
        self._levels += levels
    self._buckets, self._found = [], []
    if not by_bucket:
      return {}
    every = [value for values in by_bucket.values() for value in values]
    means = {'loss': np.mean(every)}
    means |= {f'loss/{bucket}': np.mean(by_bucket[bucket]) for bucket in sorted(by_bucket)}
    return {name: float(mean) for name, mean in means.items()} | self._by_level(step)

  def _by_level(self, step: int) -> dict[str, float]:
    if not self._every or step // self._every == self._levels_at // self._every:
      return {}
    totals, counts = self._levels
    self._levels, self._levels_at = np.zeros_like(self._levels), step
    return {
      name: float(total / count)
      for name, total, count in zip(self._names, totals, counts, strict=True)
      if count
    }
