"""A run in Weights & Biases, by its own client (the extra `wandb`): what TensorBoard shows, too.

Whom it logs in as, where it sends what, and whether it does (WANDB_MODE=offline) is the client's:
https://docs.wandb.ai/models/track/environment-variables.
"""

import importlib.util
import io
import json
import tempfile
import uuid
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np
from absl import logging
from etils import epath

from data_pipelines.corpus import storage
from i2vgen_jax.sampling import video_file

ID = 'wandb_id.txt'  # In the workdir: a run that is resumed goes on in the same place.
STEP = 'step'


def check(project: str) -> None:
  """Raises ValueError if the client is missing."""
  if importlib.util.find_spec('wandb') is None:
    raise ValueError(
      f"train.wandb={project!r} needs Weights & Biases' client: pip install wandb, or leave it out."
    )


class WandbRun:
  """Sends a run to a project.

  Args:
    project: of Weights & Biases.
    workdir: of the training run, whose last two folders name it.
    config: of the run.

  Raises:
    ValueError: the service does not let us in.
  """

  def __init__(self, project: str, workdir: epath.PathLike, config: ml_collections.ConfigDict):
    import wandb  # pyrefly: ignore[missing-import]  # The extra of that name.

    self._wandb = wandb
    workdir = epath.Path(workdir)
    try:
      self._run = wandb.init(
        project=project,
        name='/'.join(workdir.parts[-2:]).lstrip('/'),
        id=_id_of(workdir),
        resume='allow',
        dir=str(workdir) if storage.is_local(workdir) else tempfile.gettempdir(),
        config=json.loads(config.to_json()),
        settings=wandb.Settings(silent=True, console='off'),
      )
    except wandb.Error as error:
      raise ValueError(
        f'train.wandb={project!r}: {error} WANDB_MODE=offline keeps the run on this machine.'
      ) from error
    # Rows may come out of order: of skipped steps, and after a restart from an older checkpoint.
    self._run.define_metric(STEP)
    self._run.define_metric('*', step_metric=STEP)
    where = self._run.dir if self._run.offline else self._run.url
    logging.info('Weights & Biases: %s', where)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends to the curves of the tags."""
    self._run.log({STEP: step} | dict(values))

  def text(self, step: int, tag: str, text: str) -> None:
    """Nothing: configs are given at the start, and captions with videos."""

  def image(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
    """Shows a uint8 image."""
    self._log_media(step, tag, self._wandb.Image(np.asarray(image_HWC)))

  def video(self, step: int, tag: str, video_FHWC: np.ndarray, fps: float) -> None:
    """Shows a uint8 video."""
    data = io.BytesIO(video_file.gif(video_FHWC, fps))
    self._log_media(step, tag, self._wandb.Video(data, format='gif'))

  def close(self) -> None:
    """Waits until all is sent."""
    self._run.finish()

  def _log_media(self, step: int, tag: str, media: Any) -> None:
    self._run.log({STEP: step, tag: media})


def _id_of(workdir: epath.Path) -> str:
  """The run's, which the first start makes."""
  path = workdir / ID
  if not path.exists():
    storage.write_bytes(path, uuid.uuid4().hex[:12].encode())
  return path.read_text().strip()
