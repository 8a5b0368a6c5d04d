"""How a stored frame is to be shown: which side is up, how wide its pixels are, HDR or not."""

import math
from typing import NamedTuple, cast

import av
import numpy as np
from av.buffer import Buffer

from data_pipelines.media.errors import DecodeError

MAX_TILT = math.tan(math.radians(1))  # What ffmpeg takes for a quarter turn, too.
UNSPECIFIED = 2  # Of transfers and matrices, in ITU-T H.273.
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
  if not frame.side_data:  # Most frames have none.
    return UPRIGHT
  found = frame.side_data.get('DISPLAYMATRIX')
  if found is None:
    return UPRIGHT
  # A stored point (p, q) is shown at (a p + c q, b p + d q); p and a shown x go to the right.
  a, b, _, c, d, *_ = np.frombuffer(bytes(cast(Buffer, found)), np.int32).tolist()
  if not math.hypot(a, c) or not math.hypot(b, d):
    return UPRIGHT  # Of no meaning; ffmpeg leaves such frames as they are.
  straight, turned = max(abs(a), abs(d)), max(abs(b), abs(c))
  if min(straight, turned) > MAX_TILT * max(straight, turned):
    angle = math.degrees(math.atan2(b, a))
    raise DecodeError('tilted', f'it is to be shown turned by {angle:.0f} degrees.')
  if turned > straight:
    return Orientation(True, b < 0, c < 0)
  return Orientation(False, d < 0, a < 0)


def size(frame: av.VideoFrame, aspect: float) -> tuple[int, int]:
  """(height, width) with square pixels, upright.

  Args:
    frame: as decoded.
    aspect: width of a pixel over its height.
  """
  height, width = frame.height, max(1, round(frame.width * aspect))
  return (width, height) if orientation(frame).is_transposed else (height, width)


def dynamic_range(frame: av.VideoFrame) -> str:
  """'' for standard dynamic range, else the transfer function: a value of HDR."""
  return HDR.get(frame.color_trc, '')
