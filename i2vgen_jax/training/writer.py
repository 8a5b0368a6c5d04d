"""Writes what people look at: metrics.jsonl, TensorBoard, Weights & Biases."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from etils import epath

from data_pipelines.corpus import json_lines
from i2vgen_jax.process import run_folder
from i2vgen_jax.training import tensorboard, wandb_run

# Group of the curves of TensorBoard and Weights & Biases -> names in metrics.jsonl. Names with a
# group of their own (loss/BUCKET, grad_norm/BLOCK) keep it; all others are of `optimizer`.
GROUPS = {
  'loss': ('loss',),
  'eval': ('eval_loss',),
  'speed': (
    'steps_per_sec', 'step_secs', 'samples_per_sec', 'tflops_per_device', 'mfu', 'goodput',
    'checkpoint_stall_secs', 'slowest_host', 'slowest_host_secs', 'slowest_host_ratio',
  ),
  'data': ('input_wait_secs', 'slowest_input_host', 'num_bad_samples'),
  'memory': ('device_memory_peak_gib',),
}  # fmt: skip
RENAMED = {'loss': 'all', 'eval_loss': 'loss'}  # Behind the group.
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def tag_of(name: str) -> str:
  """group/name of a figure, for curves."""
  if '/' in name:
    return name
  return f'{_GROUP_OF.get(name, "optimizer")}/{RENAMED.get(name, name)}'


Board = tensorboard.TensorBoard | wandb_run.WandbRun


def boards_of(
  config: ml_collections.ConfigDict, workdir: epath.PathLike, resumed_at: int | None = None
) -> list[Board]:
  """Where a config sends curves and samples: TensorBoard, Weights & Biases.

  Args:
    config: of the run.
    workdir: likewise.
    resumed_at: as of `Writer`.

  Raises:
    ValueError: Weights & Biases does not let us in.
  """
  boards: list[Board] = []
  if config.train.tensorboard:
    boards.append(tensorboard.TensorBoard(workdir, resumed_at))
  if config.train.wandb:
    boards.append(wandb_run.WandbRun(config.train.wandb, workdir, config))
  return boards


class Writer:
  """Writes scalars, texts, images and videos of one run; a no-op except on the first process.

  Args:
    workdir: of the run.
    active: False on all but one process.
    boards: of `boards_of`, which get all but the texts in metrics.jsonl too.
    resumed_at: the step of a checkpoint that the run goes on from; None if it begins. Rows of later
      steps are marked as taken back (run_folder.standing).
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    active: bool = True,
    boards: Sequence[Board] = (),
    resumed_at: int | None = None,
  ):
    self.active, self._boards = active, boards if active else ()
    self._metrics = json_lines.Log(epath.Path(workdir) / 'metrics.jsonl') if active else None
    if self._metrics and resumed_at is not None:
      self._metrics.append({'step': resumed_at, run_folder.RESUMED: True})

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends {'step': step, **values} to metrics.jsonl, and what is no text to the curves."""
    if not self._metrics:
      return
    row = {'step': step} | {
      name: value if isinstance(value, str | int) else float(value)
      for name, value in values.items()
    }
    self._metrics.append(row)
    numbers = {
      tag_of(name): float(value) for name, value in values.items() if not isinstance(value, str)
    }
    for board in self._boards if numbers else ():
      board.scalars(step, numbers)

  def text(self, step: int, tag: str, text: str) -> None:
    """Shows a text as it is written, in columns."""
    for board in self._boards:
      board.text(step, tag, '\n'.join(f'    {line}' for line in text.splitlines()))

  def image(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
    """Shows a uint8 image."""
    for board in self._boards:
      board.image(step, tag, image_HWC)

  def video(self, step: int, tag: str, video_FHWC: np.ndarray, fps: float) -> None:
    """Shows a uint8 video as an animated GIF."""
    for board in self._boards:
      board.video(step, tag, video_FHWC, fps)

  def close(self) -> None:
    """Writes all that is left."""
    for board in self._boards:
      board.close()
