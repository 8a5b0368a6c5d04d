"""Where a training run is: a bar that redraws itself on a terminal, a plain line per report
elsewhere."""

import collections
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm
from absl import logging

from data_pipelines import progress

REPORTS = 5  # What is left is told by the speed over so many.
# Figures of a line, in this order, and what they are called there.
SHOWN = {'loss': 'loss', 'grad_norm': 'grad_norm', 'learning_rate': 'lr'}


class Progress:
  """Steps/s, what is left, and the figures that say whether a run is well.

  Args:
    first_step: updates done at the start.
    num_steps: updates at the end.
    active: False on all but one process.
  """

  def __init__(self, first_step: int, num_steps: int, active: bool = True):
    self._active, self._num_steps = active, num_steps
    self._bar = tqdm.tqdm(
      initial=first_step, total=num_steps, disable=not active or not sys.stderr.isatty(),
      unit='step', dynamic_ncols=True,
    )  # fmt: skip
    self._step, self._time = first_step, time.perf_counter()
    self._reports = collections.deque([(first_step, self._time)], REPORTS + 1)

  def report(self, step: int, values: Mapping[str, Any]) -> float:
    """Shows `values` after `step` steps; returns steps/s since the last report."""
    now = time.perf_counter()
    steps_per_sec = (step - self._step) / max(now - self._time, 1e-9)
    self._bar.update(step - self._step)
    self._step, self._time = step, now
    self._reports.append((step, now))
    if not self._bar.disable:
      self._bar.set_postfix_str(figures(values))
    elif self._active:
      first, began = self._reports[0]
      left = (self._num_steps - step) * (now - began) / max(step - first, 1)
      logging.info(
        'step %d/%d, %s, %.3g steps/s, %s left', step, self._num_steps, figures(values),
        steps_per_sec, progress.spell_secs(left),
      )  # fmt: skip
    return steps_per_sec

  def pause(self) -> None:
    """Leaves the time since the last report out of the next steps/s."""
    self._time = time.perf_counter()
    if len(self._reports) == 1:  # Compilation is not what steps take.
      self._reports[0] = self._step, self._time

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()


def figures(values: Mapping[str, Any]) -> str:
  """The loss with those of buckets if there are several, and the others of SHOWN; skipped steps if
  there are any.

  Args:
    values: of a report, by their names in metrics.jsonl.
  """
  found = {title: values[name] for name, title in SHOWN.items() if name in values}
  shown = [f'{title} {float(value):.4g}' for title, value in found.items()]
  prefix = 'loss/'
  buckets = [name for name in values if name.startswith(prefix) and '/timesteps_' not in name]
  if len(buckets) > 1:
    parts = (f'{name.removeprefix(prefix)} {values[name]:.4g}' for name in buckets)
    shown[0] += f' ({", ".join(parts)})'
  if skipped := int(values.get('num_skipped_steps', 0)):
    shown.append(f'{skipped} skipped')
  return ', '.join(shown)
