"""How a stored frame is to be shown: which side is up, how wide its pixels are, HDR or not."""

import math
import re
from typing import NamedTuple, cast

import av
import numpy as np
from av.buffer import Buffer
from av.sidedata.sidedata import SideDataContainer

from data_pipelines.media.errors import DecodeError

MAX_TILT = math.tan(math.radians(1))  # What ffmpeg takes for a quarter turn, too.
UNSPECIFIED = 2  # Of transfers and matrices, in ITU-T H.273.
# A box dvcC, or Matroska's BlockAddIDType and BlockAddIDExtraData: version 1, then the profile.
_DOLBY_VISION = re.compile(rb'dv[cvw]C(?:\x41\xed.)?\x01[\0\1](...)', re.DOTALL)
HDR = {16: 'pq', 18: 'hlg'}  # By transfer: SMPTE ST 2084 and ARIB STD-B67, both of BT.2100.


class Orientation(NamedTuple):
  """What makes stored pixels upright: first the diagonal, then the flips."""

  is_transposed: bool = False
  flips_rows: bool = False
  flips_columns: bool = False

  def upright(self, pixels_HWC: np.ndarray) -> np.ndarray:
    """A view of the pixels."""
    if self.is_transposed:
      pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if self.flips_rows:
      pixels_HWC = pixels_HWC[::-1]
    return pixels_HWC[:, ::-1] if self.flips_columns else pixels_HWC


UPRIGHT = Orientation()


def orientation(frame: av.VideoFrame) -> Orientation:
  """By the frame's display matrix, of its container or its stream; raises DecodeError if tilted."""
  # A view of our own: `frame.side_data` is a circle of references, so that frames stay in memory.
  # pyrefly: ignore[bad-argument-count]  # PyAV's stubs leave out that it takes a frame.
  side_data = SideDataContainer(frame)
  if 'DISPLAYMATRIX' not in side_data:
    return UPRIGHT
  # A stored point (p, q) is shown at (a p + c q, b p + d q); p and a shown x go to the right.
  a, b, _, c, d, *_ = np.frombuffer(
    bytes(cast(Buffer, side_data['DISPLAYMATRIX'])), np.int32
  ).tolist()
  if not math.hypot(a, c) or not math.hypot(b, d):
    return UPRIGHT  # Of no meaning; ffmpeg leaves such frames as they are.
  straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
  if min(straight, turned) > MAX_TILT * max(straight, turned):
    angle = math.degrees(math.atan2(b, a))
    raise DecodeError('tilted', f'it is to be shown turned by {angle:.0f} degrees.')
  if turned > straight:
    return Orientation(True, b < 0, c < 0)
  return Orientation(False, d < 0, a < 0)


def size(frame: av.VideoFrame, aspect: float, turn: Orientation) -> tuple[int, int]:
  """(height, width) with square pixels, upright.

  Args:
    frame: as decoded.
    aspect: width of a pixel over its height.
    turn: the frame's.
  """
  height, width = frame.height, max(1, round(frame.width * aspect))
  return (width, height) if turn.is_transposed else (height, width)


def check_dolby_vision(data: bytes) -> None:
  """Raises DecodeError if other screens have nothing to show: profile 5's colours are its own.

  Args:
    data: of a file, whose configuration of Dolby Vision, if any, is as in mp4 or Matroska.
  """
  if match := _DOLBY_VISION.search(data):
    profile, fallback = match[1][0] >> 1, match[1][2] >> 4
    if not fallback:
      detail = f'Dolby Vision of profile {profile} has no picture for other screens.'
      raise DecodeError('hdr', detail)


def dynamic_range(frame: av.VideoFrame) -> str:
  """'' for standard dynamic range, else the transfer function: a value of HDR."""
  return HDR.get(frame.color_trc, '')
