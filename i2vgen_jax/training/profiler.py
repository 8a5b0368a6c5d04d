"""Profiles of a window of steps."""

import jax
from absl import logging
from etils import epath


class Profile:
  """Writes what the devices do in a window of steps, for xprof or TensorBoard's profile plugin.

  Args:
    workdir: of the run; the profile goes to workdir/profile.
    start: step; 0 is never. A run that resumes after it does not profile.
    num_steps: length of the window.
  """

  def __init__(self, workdir, start, num_steps):
    self._folder = str(epath.Path(workdir) / 'profile')
    self._start, self._stop = start, start + num_steps
    self._running = False

  def start_at(self, step):
    """Starts if the window begins with this step; called right before it."""
    if self._start and step == self._start:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # Every Python call: gigabytes, where something is traced.
      jax.profiler.start_trace(self._folder, profiler_options=options)
      self._running = True

  def stop_at(self, step, result):
    """Stops, when `result` is there, if the window ends before this step; called before validation,
    which is not what is asked for."""
    if step >= self._stop:
      self.close(result)

  def close(self, result=None):
    """Stops, if it is running."""
    if self._running:
      jax.block_until_ready(result)
      self._running = False
      jax.profiler.stop_trace()
      logging.info('Profile written to %s', self._folder)
