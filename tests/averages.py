"""The moving average of parameters in closed form, independent of train_step.py."""

from collections.abc import Sequence

import numpy as np


def closed_form(
  history: Sequence[np.ndarray], ema_decay: float, ema_warmup: bool, first_step: int = 0
) -> np.ndarray:
  """The average after the last step as one weighted sum, in float64.

  Args:
    history: the average before the first of the steps, then the parameter after each of them.
    ema_decay: weight of the past, in [0, 1).
    ema_warmup: if True, step s has the weight min(ema_decay, (1 + s) / (10 + s)).
    first_step: number of the first step.
  Returns:
    float64, of the parameter's shape.
  """
  steps = first_step + np.arange(len(history) - 1, dtype=np.float64)
  decays = np.full(len(steps), ema_decay, np.float64)
  if ema_warmup:
    decays = np.minimum(decays, (1 + steps) / (10 + steps))
  # What is left of each value after all later steps; the first of them is an average already.
  left = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
  weights = left * np.append(1.0, 1 - decays)
  assert abs(weights.sum() - 1) < 1e-12
  return np.tensordot(weights, np.stack(history).astype(np.float64), 1)
