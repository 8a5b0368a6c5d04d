"""Writes what people look at: metrics.jsonl, TensorBoard, and a progress bar on terminals or plain
lines elsewhere."""

import sys
import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
import tqdm
from absl import logging
from etils import epath
from tensorboardX import record_writer
from tensorboardX.proto import summary_pb2

from data_pipelines.corpus import json_lines, retries, storage
from i2vgen_jax.process import run_folder
from i2vgen_jax.sampling import video_file


class EventFile:
  """Event files in a bucket, as tensorboardX writes them: of PART_BYTES or a little more.

  A flush uploads the newest part again. If the bucket stays away, that is logged and tried at the
  next flush: the curves are in metrics.jsonl too.

  Args:
    path: of the event file; the parts are named by numbers behind it.
  """

  PART_BYTES = 8 << 20

  def __init__(self, path: str):
    self._path, self._part = path, 0
    self._data, self._num_stored = bytearray(), 0

  def write(self, data: bytes) -> None:
    """Appends a record."""
    self._data += data

  def flush(self) -> None:
    """Uploads what is new."""
    if self._num_stored == len(self._data):
      return
    try:
      storage.write_bytes(epath.Path(f'{self._path}.{self._part:04d}'), bytes(self._data))
    except retries.StorageError as error:
      logging.warning('TensorBoard is behind: %s', error)
      return
    self._num_stored = len(self._data)
    if self._num_stored >= self.PART_BYTES:
      self._part, self._data, self._num_stored = self._part + 1, bytearray(), 0

  def close(self) -> None:
    """Uploads the rest."""
    self.flush()


class _EventFiles:
  """What tensorboardX opens event files with."""

  def open(self, path: str) -> EventFile:
    return EventFile(path)

  def directory_check(self, path: str) -> None:
    """Buckets have no folders."""


# tensorboardX's own writers keep a whole run in memory and upload all of it at each flush.
for _protocol in ('gs', 's3'):
  record_writer.register_writer_factory(_protocol, _EventFiles())


class Writer:
  """Writes scalars, images and videos of one run; a no-op except on the first process.

  Args:
    workdir: of the run.
    active: False on all but one process.
    tensorboard: whether to write event files.
    resumed_at: the step of a checkpoint that the run goes on from; None if it begins. Rows of later
      steps are marked as taken back (run_folder.standing), and TensorBoard leaves them out.
  """

  def __init__(
    self,
    workdir: epath.PathLike,
    active: bool = True,
    tensorboard: bool = True,
    resumed_at: int | None = None,
  ):
    self.active = active
    self._metrics = json_lines.Log(epath.Path(workdir) / 'metrics.jsonl') if active else None
    self._events = None
    if active and tensorboard:
      # Its own names differ by seconds and hosts only.
      options: dict[str, Any] = {'filename_suffix': f'.{uuid.uuid4().hex[:8]}'}
      if resumed_at is not None:
        options['purge_step'] = resumed_at + 1
      self._events = tensorboardX.SummaryWriter(str(epath.Path(workdir) / 'tensorboard'), **options)

    if self._metrics and resumed_at is not None:
      self._metrics.append({'step': resumed_at, run_folder.RESUMED: True})

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Appends {'step': step, **values} to metrics.jsonl, and to TensorBoard."""
    if not self._metrics:
      return
    row = {'step': step} | {
      name: value if isinstance(value, str | int) else float(value)
      for name, value in values.items()
    }
    self._metrics.append(row)
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
