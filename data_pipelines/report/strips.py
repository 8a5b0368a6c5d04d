"""Strips of an example's frames, as JPEG data URIs: pictures that need no file beside the page."""

import base64
import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import simplejpeg

from data_pipelines.corpus import reader
from data_pipelines.media import decode, failures, sandbox

HEIGHT = 72  # Pixels of a strip.
MAX_ASPECT = 2.7  # Of a frame: a wider one is drawn smaller.
POSITIONS = (0.1, 0.5, 0.9)  # Of the single shot: the frames that curate and score look at.
QUALITY = 75
# What must not be used is not looked at either.
HIDDEN_RULES = {'denylist', 'allowlist', 'nsfw'}


Times = Sequence[float]


class Strips:
  """Draws examples of corpora in a child process, which bad media may crash.

  Attributes:
    failed: how many could not be drawn, by reason.
  """

  def __init__(self, corpora: reader.Corpora):
    self._corpora = corpora
    self._records = reader.Records()
    self._draw = sandbox.Sandbox(draw)
    self.failed: collections.Counter = collections.Counter()

  def __call__(
    self, row: int, details: dict, groups: Sequence[Times] = (), height: int = HEIGHT
  ) -> dict[str, Any]:
    """`details` with caption, and pictures (data URIs) or error.

    Args:
      row: of the corpora.
      details: of the sidecars, of that row.
      groups: as of `draw`.
      height: likewise.
    """
    if is_hidden(details):
      return dict(details, caption='', pictures=[], error='not shown')
    caption = ''
    try:
      record = self._records.read(*self._corpora.locate(row))
      caption = record['caption']
      jpegs = self._draw(record['data'], details, groups, height)
    except Exception as error:  # One example never ends a command.
      lost = failures.of(error)
      self.failed[lost.reason] += 1
      return dict(details, caption=caption, pictures=[], error=str(lost))
    pictures = [f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}' for jpeg in jpegs]
    return dict(details, caption=caption, pictures=pictures, error='')

  def close(self) -> None:
    """Ends the child."""
    self._draw.close()


def is_hidden(details: dict) -> bool:
  """True for what a denylist names and for what is tagged or was dropped as unsafe."""
  unsafe = details.get('nsfw') not in (None, '', 'UNLIKELY')
  return unsafe or bool(HIDDEN_RULES & set(details.get('reject') or ()))


def draw(
  data: bytes, details: dict, groups: Sequence[Times] = (), height: int = HEIGHT
) -> list[bytes]:
  """JPEGs: one of an image; of a video, one of each group of its frames, side by side.

  Args:
    data: an encoded file.
    details: of the sidecars, of that file.
    groups: ascending times of the frames, seconds; of its shot at POSITIONS if there are none.
    height: of the pictures, pixels.
  """
  max_width = round(MAX_ASPECT * height)
  if details['media'] == 'image':
    image = decode.decode_image(data)
    image.thumbnail((max_width, height), PIL.Image.Resampling.BOX)
    return [_encoded(np.asarray(image))]
  width = min(max_width, max(8, round(height * details['width'] / details['height'])))
  groups = groups or [_times(details)]
  first, last = details['first_time'], details['first_time'] + details['duration']
  times_T = np.clip(np.concatenate([np.asarray(times, float) for times in groups]), first, last)
  order_T = np.argsort(times_T, kind='stable')
  frames_THWC, _ = decode.decode_video(data, times_T[order_T], height, width)
  frames_THWC = frames_THWC[np.argsort(order_T)]
  ends = np.cumsum([len(times) for times in groups])[:-1]
  return [_encoded(np.concatenate(list(part), axis=1)) for part in np.split(frames_THWC, ends)]


def _times(details: dict) -> Times:
  start, end = details['first_time'], details['first_time'] + details['duration']
  if details.get('span_end') is not None:
    start, end = details['span_start'], details['span_end']
  return [start + position * (end - start) for position in POSITIONS]


def _encoded(picture_HWC: np.ndarray) -> bytes:
  return simplejpeg.encode_jpeg(np.ascontiguousarray(picture_HWC), quality=QUALITY)
