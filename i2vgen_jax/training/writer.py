"""What people look at: metrics.jsonl, TensorBoard, a progress bar on terminals and plain lines
elsewhere."""

import io
import json
import sys
import time

import numpy as np
import tensorboardX
import tqdm
from absl import logging
from etils import epath
from PIL import Image
from tensorboardX.proto import summary_pb2


class Writer:
  """Writes scalars, images and videos of one run; a no-op except on the first process.

  Args:
    workdir: of the run.
    active: False on all but one process.
    tensorboard: whether to write event files.
  """

  def __init__(self, workdir, active=True, tensorboard=True):
    self._active = active
    self._workdir = epath.Path(workdir)
    self._events = None
    if active and tensorboard:
      self._events = tensorboardX.SummaryWriter(str(self._workdir / 'tensorboard'))

  def scalars(self, step, values):
    """Appends {'step': step, **values} to metrics.jsonl, and to TensorBoard."""
    if not self._active:
      return
    row = {'step': step} | {name: _number(value) for name, value in values.items()}
    with (self._workdir / 'metrics.jsonl').open('a') as file:
      file.write(json.dumps(row) + '\n')
    if self._events:
      for name, value in values.items():
        if not isinstance(value, str):
          self._events.add_scalar(name, float(value), step)

  def text(self, step, name, text):
    """Shows a text in TensorBoard."""
    if self._events:
      self._events.add_text(name, text, step)

  def image(self, step, name, image_HWC):
    """Shows a uint8 image in TensorBoard."""
    if self._events:
      self._events.add_image(name, np.asarray(image_HWC), step, dataformats='HWC')

  def video(self, step, name, video_FHWC, fps):
    """Shows a uint8 video in TensorBoard as an animated GIF."""
    if not self._events:
      return
    # add_video of tensorboardX drops videos in silence without moviepy; an image summary may hold
    # any GIF.
    _, height, width, channels = video_FHWC.shape
    image = summary_pb2.Summary.Image(
      height=height, width=width, colorspace=channels, encoded_image_string=gif(video_FHWC, fps)
    )
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=name, image=image)])
    self._events.file_writer.add_summary(summary, step)

  def close(self):
    """Flushes the event files."""
    if self._events:
      self._events.close()


def _number(value):
  return value if isinstance(value, str | int) else float(value)


def gif(video_FHWC, fps):
  """Bytes of an endless GIF of uint8 frames."""
  frames = [Image.fromarray(frame) for frame in np.asarray(video_FHWC)]
  buffer = io.BytesIO()
  frames[0].save(
    buffer, 'GIF', save_all=True, append_images=frames[1:], duration=int(1000 / fps), loop=0
  )
  return buffer.getvalue()


def contact_sheet(videos_BFHWC: np.ndarray) -> np.ndarray:
  """One row per video, its frames side by side with a pixel of white between; uint8 (H, W, 3)."""
  rows = []
  for video_FHWC in np.asarray(videos_BFHWC):
    framed = [np.pad(f, ((0, 1), (0, 1), (0, 0)), constant_values=255) for f in video_FHWC]
    rows.append(np.concatenate(framed, 1))
  return np.concatenate(rows, 0)


def write_png(path, image_HWC):
  """Writes a uint8 image."""
  with epath.Path(path).open('wb') as file:
    Image.fromarray(np.asarray(image_HWC)).save(file, 'PNG')


class Progress:
  """Steps/s and metrics: a bar that redraws itself on a terminal, a plain line per report
  elsewhere."""

  def __init__(self, first_step, num_steps, active=True):
    self._active = active
    self._bar = tqdm.tqdm(
      initial=first_step, total=num_steps, disable=not active or not sys.stderr.isatty(),
      unit='step', dynamic_ncols=True,
    )  # fmt: skip
    self._step, self._time = first_step, time.perf_counter()

  def report(self, step, values):
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

  def pause(self):
    """Leaves the time since the last report out of the next steps/s."""
    self._time = time.perf_counter()

  def close(self):
    """Ends the bar."""
    self._bar.close()
