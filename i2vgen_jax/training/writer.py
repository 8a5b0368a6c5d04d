"""Writes what people look at: metrics.jsonl, TensorBoard, and a progress bar on terminals or plain
lines elsewhere."""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
import tqdm
from absl import logging
from etils import epath
from tensorboardX.proto import summary_pb2

from i2vgen_jax.sampling import video_file


class Writer:
  """Writes scalars, images and videos of one run; a no-op except on the first process.

  Args:
    workdir: of the run.
    active: False on all but one process.
    tensorboard: whether to write event files.
  """

  def __init__(self, workdir: epath.PathLike, active: bool = True, tensorboard: bool = True):
    self.active = active
    self._workdir = epath.Path(workdir)
    self._events = None
    if active and tensorboard:
      self._events = tensorboardX.SummaryWriter(str(self._workdir / 'tensorboard'))

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends {'step': step, **values} to metrics.jsonl, and to TensorBoard."""
    if not self.active:
      return
    row = {'step': step} | {
      name: value if isinstance(value, str | int) else float(value)
      for name, value in values.items()
    }
    with (self._workdir / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps(row) + '\n')
    if self._events:
      for name, value in values.items():
        if not isinstance(value, str):
          self._events.add_scalar(name, float(value), step)

  def text(self, step: int, name: str, text: str) -> None:
    """Shows a text in TensorBoard.

    Args:
      step: updates done.
      name: its tag.
      text: Markdown.
    """
    if self._events:
      self._events.add_text(name, text, step)

  def image(self, step: int, name: str, image_HWC: np.ndarray) -> None:
    """Shows an image in TensorBoard.

    Args:
      step: updates done.
      name: its tag.
      image_HWC: uint8.
    """
    if self._events:
      self._events.add_image(name, np.asarray(image_HWC), step, dataformats='HWC')

  def video(self, step: int, name: str, video_FHWC: np.ndarray, fps: float) -> None:
    """Shows a video in TensorBoard as an animated GIF.

    Args:
      step: updates done.
      name: its tag.
      video_FHWC: uint8.
      fps: frames per second.
    """
    if not self._events:
      return
    # Without moviepy, tensorboardX's add_video drops videos in silence; an image summary may hold
    # any GIF.
    _, height, width, channels = video_FHWC.shape
    # pyrefly: ignore[missing-attribute]  # Protobuf makes the classes at import.
    summary_class = summary_pb2.Summary
    image = summary_class.Image(
      height=height,
      width=width,
      colorspace=channels,
      encoded_image_string=video_file.gif(video_FHWC, fps),
    )
    summary = summary_class(value=[summary_class.Value(tag=name, image=image)])
    # pyrefly: ignore[missing-attribute]  # It is None only after `close`.
    self._events.file_writer.add_summary(summary, step)

  def close(self) -> None:
    """Flushes the event files."""
    if self._events:
      self._events.close()


class Progress:
  """Steps/s and metrics: a bar that redraws itself on a terminal, a plain line per report
  elsewhere.

  Args:
    first_step: updates done at the start.
    num_steps: updates at the end.
    active: False on all but one process.
  """

  def __init__(self, first_step: int, num_steps: int, active: bool = True):
    self._active = active
    self._bar = tqdm.tqdm(
      initial=first_step, total=num_steps, disable=not active or not sys.stderr.isatty(),
      unit='step', dynamic_ncols=True,
    )  # fmt: skip
    self._step, self._time = first_step, time.perf_counter()

  def report(self, step: int, values: Mapping[str, Any]) -> float:
    """Shows `values` after `step` steps; returns steps/s since the last report."""
    now = time.perf_counter()
    steps_per_sec = (step - self._step) / max(now - self._time, 1e-9)
    self._bar.update(step - self._step)
    self._step, self._time = step, now
    shown = ' '.join(
      f'{name} {value}' if isinstance(value, str) else f'{name} {float(value):.4g}'
      for name, value in values.items()
    )
    if not self._bar.disable:
      self._bar.set_postfix_str(shown)
    elif self._active:
      logging.info('step %d/%d %s (%.2f steps/s)', step, self._bar.total, shown, steps_per_sec)
    return steps_per_sec

  def pause(self) -> None:
    """Leaves the time since the last report out of the next steps/s."""
    self._time = time.perf_counter()

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()
