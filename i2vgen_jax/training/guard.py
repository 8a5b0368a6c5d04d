"""Steps that would break the run are skipped: they change nothing but the position in the data.

The device decides within the step, so that no broken state ever exists. The hosts learn of it at
their next report, from rings of numbers that are part of the state: nothing waits for a step.
"""

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from data_pipelines.stream import stream as stream_lib
from i2vgen_jax.process import errors
from i2vgen_jax.training import writer as writer_lib

NORMS = 128  # Steps whose gradient norms the running median is taken of.
MIN_NORMS = 32  # Below so many the median says too little to skip a step.
REMEMBERED = 64  # Skipped steps that the state knows by number.
KEYS_LOGGED = 64  # Metrics hold all of them.
NO_GRADIENT = (
  'No parameter that learns gets a gradient: grad_norm is 0. optimizer.groups freezes what all '
  'gradients pass, such as conv_out while it is still zero.'
)


@flax.struct.dataclass
class Guard:
  """What a run knows of its gradients and skipped steps; each ring is overwritten in turn."""

  norms: jax.Array  # float32 (NORMS,): finite norms by step modulo NORMS; NaN where there is none.
  num_skipped: jax.Array  # int32 scalar.
  skipped_steps: jax.Array  # int32 (REMEMBERED,): of the last ones; -1 where there is none.
  skipped_norms: jax.Array  # float32 (REMEMBERED,): NaN if loss or gradient was not finite.


def start() -> Guard:
  """Of a run without a past."""
  return Guard(
    norms=jnp.full(NORMS, jnp.nan, jnp.float32),
    num_skipped=jnp.zeros((), jnp.int32),
    skipped_steps=jnp.full(REMEMBERED, -1, jnp.int32),
    skipped_norms=jnp.full(REMEMBERED, jnp.nan, jnp.float32),
  )


def judge(
  guard: Guard, step: jax.Array, loss: jax.Array, norm: jax.Array, skip_norm: float
) -> tuple[jax.Array, Guard]:
  """(whether the step counts, the next Guard).

  Args:
    guard: before the step.
    step: its position in the data.
    loss: mean loss.
    norm: of the whole gradient; one number in it that is not finite makes it so.
    skip_norm: norms beyond so many times the running median are skipped; 0 skips none for its size.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  keep = finite
  if skip_norm:
    known = jnp.sum(jnp.isfinite(guard.norms)) >= MIN_NORMS
    keep &= ~(known & (norm > skip_norm * jnp.nanmedian(guard.norms)))
  place, slot = step % NORMS, guard.num_skipped % REMEMBERED

  def remember(ring: jax.Array, value: jax.Array) -> jax.Array:
    return ring.at[slot].set(jnp.where(keep, ring[slot], value))

  return keep, Guard(
    # Large ones too: else a lasting rise would be skipped for ever.
    norms=guard.norms.at[place].set(jnp.where(finite, norm, guard.norms[place])),
    num_skipped=guard.num_skipped + ~keep,
    skipped_steps=remember(guard.skipped_steps, step),
    skipped_norms=remember(guard.skipped_norms, jnp.where(finite, norm, jnp.nan)),
  )


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the fields of config.train that are about skipping.

  Raises:
    ValueError: one is out of its range.
  """
  train = config.train
  if not 0 <= train.max_skipped < REMEMBERED or train.skip_window < 1:
    raise ValueError(
      f'train.max_skipped={train.max_skipped} must lie in 0..{REMEMBERED - 1}, and '
      f'train.skip_window={train.skip_window} be at least 1 step.'
    )
  if train.skip_norm and not 1 < train.skip_norm < math.inf:
    raise ValueError(
      f'train.skip_norm={train.skip_norm} must be above 1 (times the median norm), or 0: off.'
    )


class Skips:
  """Reports skipped steps of a run, and ends it when there are too many.

  Args:
    guard: at the start, or where the run goes on; what it counted is reported already.
    stream: tells what was in a batch.
    writer: of the metrics.
    max_skipped: of the last `skip_window` steps.
    skip_window: steps.
  """

  def __init__(
    self,
    guard: Guard,
    stream: stream_lib.TrainStream,
    writer: writer_lib.Writer,
    max_skipped: int,
    skip_window: int,
  ):
    self._reported, self._is_first = int(guard.num_skipped), True
    self._stream, self._writer = stream, writer
    self._max_skipped, self._window = max_skipped, skip_window

  def report(self, step: int, guard: Guard, metrics: dict[str, Any]) -> dict[str, Any]:
    """Logs the steps that were skipped since the last report, and a first gradient of 0; returns
    the metrics that are finite.

    Args:
      step: steps done.
      guard: after them.
      metrics: of the last one.

    Raises:
      errors.TrainingError: too many were skipped. The state is that of the last good step.
    """
    num_skipped = int(guard.num_skipped)
    if num_skipped > self._reported:
      steps, norms = np.asarray(guard.skipped_steps), np.asarray(guard.skipped_norms)
      for number in range(max(self._reported, num_skipped - REMEMBERED), num_skipped):
        self._log(int(steps[number % REMEMBERED]), float(norms[number % REMEMBERED]))
      self._reported = num_skipped
      self._check_budget(step, {int(skipped) for skipped in steps if skipped >= 0})
    if self._is_first and self._writer.active and metrics.get('grad_norm') == 0:
      logging.warning(NO_GRADIENT)
    self._is_first = False
    return {
      name: value
      for name, value in metrics.items()
      if isinstance(value, str) or math.isfinite(float(value))
    }

  def _log(self, skipped: int, norm: float) -> None:
    if not self._writer.active:
      return
    bucket = self._stream.bucket_at(skipped).name
    keys = [example['key'] for example in self._stream.examples_at(skipped)]
    finite = math.isfinite(norm)
    reason = f'gradient norm {norm:.4g} is too large' if finite else 'loss or gradient not finite'
    shown = ', '.join(keys[:KEYS_LOGGED]) + (', ...' if len(keys) > KEYS_LOGGED else '')
    logging.warning('Skipped step %d: %s. Bucket %s, keys %s.', skipped, reason, bucket, shown)
    row = dict(skipped_reason=reason, skipped_bucket=bucket, skipped_keys=', '.join(keys))
    self._writer.scalars(skipped, row)

  def _check_budget(self, step: int, skipped: set[int]) -> None:
    recent = sorted(number for number in skipped if number >= step - self._window)
    if len(recent) <= self._max_skipped:
      return
    good = next((number for number in range(step - 1, -1, -1) if number not in skipped), None)
    last = 'No step was good' if good is None else f'The last good step is {good}'
    raise errors.TrainingError(
      f'{len(recent)} of the last {min(step, self._window)} steps were skipped, more than '
      f'train.max_skipped={self._max_skipped}; the last is {recent[-1]}. {last}, and the last '
      'checkpoint is good. Lower optimizer.peak_learning_rate, or look at the batches of the '
      'steps: python -m data_pipelines peek --step.'
    )
