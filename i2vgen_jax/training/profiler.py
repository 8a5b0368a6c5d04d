"""Profiles of a window of steps."""

from collections.abc import Callable
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
    is_asked: called before each step; True begins a window with it.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    start: int,
    num_steps: int,
    is_asked: Callable[[], bool] = lambda: False,
  ):
    self._folder = str(epath.Path(workdir) / 'profile')
    self._start, self._num_steps, self._is_asked = start, num_steps, is_asked
    self._stop, self._running = 0, False

  def start_at(self, step: int) -> None:
    """Starts if a window begins with this step; call it right before the step."""
    begins = (self._start and step == self._start) or self._is_asked()
    if begins and not self._running:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # A trace of all Python calls would be gigabytes.
      jax.profiler.start_trace(self._folder, profiler_options=options)
      self._stop, self._running = step + self._num_steps, True

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
