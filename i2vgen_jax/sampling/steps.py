"""How far sampling is, told by the compiled program itself at each network call."""

import contextlib
from collections.abc import Callable, Generator

import jax

from data_pipelines import progress


class Steps:
  """Counts the network calls of a `generate` while it runs.

  JAX keeps no compiled program that calls the host: where it is told to keep them
  (JAX_COMPILATION_CACHE_DIR), a whole run of the program counts at once, when it ends.

  Attributes:
    per_run: network calls of one run of the program, as make_generate says.
  """

  def __init__(self) -> None:
    self.per_run = 1
    self._done = 0
    self._progress: progress.Progress | None = None

  @property
  def callback(self) -> Callable[[], None] | None:
    """What the program calls, if it may."""
    # pyrefly: ignore[missing-attribute]  # JAX makes the attributes of its options at import.
    return None if jax.config.jax_compilation_cache_dir else self._tick

  @contextlib.contextmanager
  def shown(self, num_runs: int) -> Generator[None, None, None]:
    """Shows the progress of so many runs of the program."""
    with progress.Progress(num_runs * self.per_run, 'step', 'denoising') as shown:
      self._progress, self._done = shown, 0
      try:
        yield
      finally:
        jax.effects_barrier()  # The last calls may still be under way.
        self._progress = None

  def end_run(self) -> None:
    """Counts what one run of the program has not told by itself."""
    jax.effects_barrier()
    self._add(-self._done % self.per_run if self.callback else self.per_run)

  def _tick(self) -> None:
    self._add(1)

  def _add(self, number: int) -> None:
    self._done += number
    if self._progress:
      self._progress.update(number)
