"""Profiles of a window of steps."""

from typing import Any

import jax
from absl import logging
from etils import epath


class Profile:
  """Writes what the devices do in a window of steps, for xprof or TensorBoard's profile plugin.

  Args:
    workdir: of the run; the profile goes to workdir/profile.
    start: first step of the window; 0 is never. A run that resumes after it does not profile.
    num_steps: length of the window.
  """

  def __init__(self, workdir: epath.PathLike, start: int, num_steps: int):
    self._folder = str(epath.Path(workdir) / 'profile')
    self._start, self._stop = start, start + num_steps
    self._running = False

  def start_at(self, step: int) -> None:
    """Starts if the window begins with this step; call it right before the step."""
    if self._start and step == self._start:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # A trace of all Python calls would be gigabytes.
      jax.profiler.start_trace(self._folder, profiler_options=options)
      self._running = True

  def stop_at(self, step: int, result: Any) -> None:
    """Stops, once `result` is computed, if the window ends before this step; call it before
    validation, which the profile leaves out."""
    if step >= self._stop:
      self.close(result)

  def close(self, result: Any = None) -> None:
    """Stops if it is running, once `result` is computed."""
    if self._running:
      jax.block_until_ready(result)
      self._running = False
      jax.profiler.stop_trace()
      logging.info('Profile written to %s', self._folder)
