"""The part of the stored frames that a container says is shown: mp4's clap, Matroska's PixelCrop.

FFmpeg's own program and players show no more than that; its decoders, and PyAV, do not know of it.
"""

import fractions
import re
import struct
from typing import NamedTuple

import av
import av.filter

from data_pipelines.media import errors

_CLAP = b'\0\0\0\x28clap'
_ANY = fractions.Fraction(1, 1000)  # Times are not looked at.
_TRACKS = b'\x16\x54\xae\x6b'
_CLUSTER = b'\x1f\x43\xb6\x75'
_PIXEL_CROP = re.compile(rb'\x54([\xaa\xbb\xcc\xdd])(?:\x81(.)|\x82(..))', re.DOTALL)
_SIDES = {b'\xaa': 'bottom', b'\xbb': 'top', b'\xcc': 'left', b'\xdd': 'right'}


class Crop(NamedTuple):
  """Pixels of a stored frame that are not shown."""

  top: int = 0
  bottom: int = 0
  left: int = 0
  right: int = 0


def declared(data: bytes, form: str, height: int, width: int) -> Crop:
  """What the header of a file with one video says.

  Args:
    data: of the file.
    form: FFmpeg's name of its format.
    height: of the stored frames.
    width: likewise.
  """
  crop = Crop()
  if 'mp4' in form:
    place = data.find(_CLAP)
    if 0 <= place <= len(data) - 40:
      crop = _of_clap(struct.unpack_from('>4I4i', data, place + 8), height, width)
  elif form.startswith('matroska'):
    tracks = _tracks(data)
    found = {_SIDES[m[1]]: int.from_bytes(m[2] or m[3]) for m in _PIXEL_CROP.finditer(tracks)}
    crop = Crop(**found)
  is_within = crop.top + crop.bottom < height and crop.left + crop.right < width
  return crop if is_within and min(crop) >= 0 else Crop()


def _tracks(data: bytes) -> bytes:
  """Matroska's element of that name: attached fonts and pictures may hold any bytes."""
  place = data.rfind(_TRACKS, 0, max(0, data.find(_CLUSTER))) + len(_TRACKS)
  if place < len(_TRACKS) or not data[place]:
    return b''
  num_bytes = 9 - data[place].bit_length()  # Its first 1 says how long the size is.
  size = int.from_bytes(data[place : place + num_bytes]) - (1 << 7 * num_bytes)
  return data[place + num_bytes : place + num_bytes + size]


def _of_clap(numbers: tuple[int, ...], height: int, width: int) -> Crop:
  """Fractions: width, height, and how far the centre lies right of and below that of the frame."""
  if not all(numbers[1::2]):
    return Crop()
  shown_width, shown_height, right, down = (
    n / d for n, d in zip(numbers[::2], numbers[1::2], strict=True)
  )
  left = round((width - shown_width) / 2 + right)
  top = round((height - shown_height) / 2 + down)
  return Crop(top, height - top - round(shown_height), left, width - left - round(shown_width))


class Cropper:
  """Cuts frames to what is shown; where all is, it does nothing."""

  def __init__(self, crop: Crop):
    self._crop = crop
    self._kind: tuple | None = None
    self._graph: av.filter.Graph | None = None

  def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, or one of its part; raises DecodeError if it cannot be cut."""
    if not any(self._crop):
      return frame
    try:
      kind = frame.width, frame.height, frame.format.name
      if self._graph is None or kind != self._kind:
        self._kind, self._graph = kind, self._graph_for(frame)
      self._graph.vpush(frame)
      part = self._graph.vpull()
    except errors.FFMPEG_ERRORS as error:
      raise errors.of(error, 'crop') from error
    part.pts = frame.pts
    if frame.time_base is not None:
      part.time_base = frame.time_base
    return part

  def _graph_for(self, frame: av.VideoFrame) -> av.filter.Graph:
    top, bottom, left, right = self._crop
    graph = av.filter.Graph()
    nodes = (
      graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_ANY),
      graph.add('crop', f'iw-{left}-{right}:ih-{top}-{bottom}:{left}:{top}'),
      graph.add('buffersink'),
    )
    graph.link_nodes(*nodes).configure()
    return graph
