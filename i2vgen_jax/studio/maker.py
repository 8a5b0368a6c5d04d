"""Makes the videos of jobs, as `sample` does, and tells them how far they are."""

import time
from collections.abc import Callable

import jax
import numpy as np

from i2vgen_jax import sample
from i2vgen_jax.sampling import stages as stages_lib
from i2vgen_jax.sampling import video_file
from i2vgen_jax.studio import asked as asked_lib
from i2vgen_jax.studio import jobs as jobs_lib
from i2vgen_jax.studio import preview as preview_lib
from i2vgen_jax.studio import runs as runs_lib

PREVIEW_SECS = 0.3  # Between two looks, which take time of their own.


class Maker:
  """Makes videos of the runs, whose decoders it has looked at.

  Args:
    runs: that there are.
  """

  def __init__(self, runs: runs_lib.Runs):
    self._runs = runs
    self._previews: dict[str, preview_lib.Preview] = {}

  def warm_up(self) -> None:
    """Loads the first run; raises ValueError as stages.load."""
    arguments = [f'--workdir={self._runs.workdirs[0]}']
    if step := self._runs.newest(0):
      arguments.append(f'--step={step}')
    if self._runs.refine_workdir:
      arguments.append(f'--refine_workdir={self._runs.refine_workdir}')
    given = asked_lib.parse(arguments)
    self._preview(given.workdir, sample.load_stages(given, self._runs.load)[0])

  def __call__(self, video: jobs_lib.Video, changed: Callable[[], None]) -> None:
    """Makes a video and its files.

    Args:
      video: of a job; its progress is written to it.
      changed: called after each change; an error that it raises ends the work.
    """
    started, asked = time.monotonic(), video.asked
    given = asked.given
    stages = sample.load_stages(given, self._runs.load)
    workdirs = [given.workdir, given.refine_workdir]
    previews = [self._preview(workdirs[i], stage) for i, stage in enumerate(stages)]
    video.stages, video.stage = len(stages), 0
    changed()
    fps, looked = stages[-1].bucket.fps, 0.0

    def watch(done: int, total: int, x0_BFHWC: jax.Array) -> None:
      nonlocal looked
      video.stage += done == 1
      video.done, video.total = done, total
      x0_FHWC = np.asarray(x0_BFHWC[0])  # Waits for the call.
      if done == total or time.monotonic() - looked > PREVIEW_SECS:
        video.preview = preview_lib.webp(previews[video.stage - 1](x0_FHWC), fps)
        video.num_previews, looked = video.num_previews + 1, time.monotonic()
      changed()

    path = video.folder / asked_lib.OUTPUT
    made_FHWC = stages_lib.make_video(
      stages, asked.image, given.prompt or '', given.seed, path, asked.more, watch
    )
    video_file.write(path.with_suffix('.gif'), made_FHWC, fps)
    video.size, video.secs = made_FHWC.shape[:3], time.monotonic() - started

  def _preview(self, workdir: str, stage: stages_lib.Stage) -> preview_lib.Preview:
    if workdir not in self._previews:
      frozen = {'vae': stage.session.frozen['vae']}
      self._previews[workdir] = preview_lib.fit(stage.session.autoencoder, frozen)
    return self._previews[workdir]
