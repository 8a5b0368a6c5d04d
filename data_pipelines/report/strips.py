"""Strips of an example's frames, as JPEG data URIs: pictures that need no file beside the page."""

import base64
import collections

import numpy as np
import PIL.Image
import simplejpeg

from data_pipelines.corpus import reader
from data_pipelines.media import decode, failures, sandbox

HEIGHT = 72  # Pixels of a strip.
MAX_WIDTH = 192  # Of a frame.
POSITIONS = (0.1, 0.5, 0.9)  # Of the single shot: the frames that curate and score look at.
QUALITY = 75
# What must not be used is not looked at either.
HIDDEN_RULES = {'denylist', 'allowlist', 'nsfw'}


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

  def __call__(self, row: int, details: dict) -> dict:
    """`details` (a row of the sidecars) with caption, and picture (a data URI) or error."""
    if is_hidden(details):
      return dict(details, caption='', picture='', error='not shown')
    caption = ''
    try:
      record = self._records.read(*self._corpora.locate(row))
      caption = record['caption']
      jpeg = self._draw(record['data'], details)
    except Exception as error:  # One example never ends a command.
      lost = failures.of(error)
      self.failed[lost.reason] += 1
      return dict(details, caption=caption, picture='', error=str(lost))
    encoded = base64.b64encode(jpeg).decode()
    return dict(details, caption=caption, picture=f'data:image/jpeg;base64,{encoded}', error='')

  def close(self) -> None:
    """Ends the child."""
    self._draw.close()


def is_hidden(details: dict) -> bool:
  """True for what a denylist names and for what is tagged or was dropped as unsafe."""
  unsafe = details.get('nsfw') not in (None, '', 'UNLIKELY')
  return unsafe or bool(HIDDEN_RULES & set(details.get('reject') or ()))


def middle_cut(details: dict) -> float:
  """The cut of a video that is shown."""
  return details['cuts'][len(details['cuts']) // 2]


def draw(data: bytes, details: dict) -> bytes:
  """JPEG of an image, or of frames side by side: three of a video's shot, or with at_cut the two
  before a cut and the two from it on."""
  width = min(MAX_WIDTH, max(8, round(HEIGHT * details['width'] / details['height'])))
  if details['media'] == 'image':
    image = decode.decode_image(data)
    image.thumbnail((MAX_WIDTH, HEIGHT), PIL.Image.Resampling.BOX)
    strip_HWC = np.asarray(image)
  else:
    start, end = details['first_time'], details['first_time'] + details['duration']
    if details.get('span_end') is not None:
      start, end = details['span_start'], details['span_end']
    times = np.array([start + position * (end - start) for position in POSITIONS])
    if details.get('at_cut'):
      times = middle_cut(details) + np.array([-2, -1, 0, 1]) / details['fps']
      end = details['first_time'] + details['duration']
      times = np.clip(times, details['first_time'], end)
    frames_FHWC, _ = decode.decode_video(data, times, HEIGHT, width)
    strip_HWC = np.concatenate(list(frames_FHWC), axis=1)
  return simplejpeg.encode_jpeg(np.ascontiguousarray(strip_HWC), quality=QUALITY)
