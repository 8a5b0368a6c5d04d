"""TensorBoard's event files: curves, texts, pictures and videos of a run."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorboardX
from absl import logging
from etils import epath
from tensorboardX import record_writer
from tensorboardX.proto import summary_pb2

from data_pipelines.corpus import retries, storage
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


class TensorBoard:
  """Writes the event files of one run to workdir/tensorboard.

  Args:
    workdir: of the run.
    resumed_at: points of later steps are left out from now on; None if the run begins.
  """

  def __init__(self, workdir: epath.PathLike, resumed_at: int | None = None):
    # Its own names differ by seconds and hosts only.
    options: dict[str, Any] = {'filename_suffix': f'.{uuid.uuid4().hex[:8]}'}
    if resumed_at is not None:
      options['purge_step'] = resumed_at + 1
    self._events = tensorboardX.SummaryWriter(str(epath.Path(workdir) / 'tensorboard'), **options)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Appends to the curves of the tags."""
    for tag, value in values.items():
      self._events.add_scalar(tag, value, step)

  def text(self, step: int, tag: str, text: str) -> None:
    """Shows Markdown."""
    self._events.add_text(tag, text, step)

  def image(self, step: int, tag: str, image_HWC: np.ndarray) -> None:
    """Shows a uint8 image."""
    self._events.add_image(tag, np.asarray(image_HWC), step, dataformats='HWC')

  def video(self, step: int, tag: str, video_FHWC: np.ndarray, fps: float) -> None:
    """Shows a uint8 video as an animated GIF."""
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
    summary = summary_class(value=[summary_class.Value(tag=tag, image=image)])
    # pyrefly: ignore[missing-attribute]  # It is None only after `close`.
    self._events.file_writer.add_summary(summary, step)

  def close(self) -> None:
    """Flushes the event files."""
    self._events.close()
