"""Writing videos that every player opens: H.264, yuv420p, constant frame rate."""

import io
from fractions import Fraction

import av
import numpy as np
from etils import epath

CRF = '18'  # x264's quality, from 0, lossless, to 51.


def write_mp4(path: epath.PathLike, video_FHWC: np.ndarray, fps: float) -> None:
  """Writes uint8 RGB frames as an mp4; the file appears whole or not at all.

  Args:
    path: local or gs://...; parents are made.
    video_FHWC: uint8; height and width even.
    fps: frames per second, > 0.

  Raises:
    ValueError: an odd size, which yuv420p cannot hold.
  """
  video_FHWC = np.asarray(video_FHWC)
  _, height, width, _ = video_FHWC.shape
  if height % 2 or width % 2:
    raise ValueError(f'video size {width}x{height} must be even to be written as H.264.')
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
    stream.options = {'crf': CRF}
    for frame_HWC in video_FHWC:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')))
    container.mux(stream.encode())
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(path.name + '.part')
  beside.write_bytes(buffer.getvalue())
  beside.replace(path)
