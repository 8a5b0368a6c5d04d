"""Writing videos that every player opens and shows in the colours that were given: mp4 (H.264,
yuv420p, BT.709), and animated GIF and WebP.
"""

import io
import math
import pathlib
from collections.abc import Sequence
from fractions import Fraction

import av
import av.video.reformatter
import numpy as np
import PIL.Image
from etils import epath

from data_pipelines.corpus import storage

CRF = '18'  # x264's quality, from 0, lossless, to 51.
WEBP_QUALITY = 90
# Browsers show a GIF's delays of 0 and 1 hundredths of a second as 10.
MAX_GIF_FPS = 50
# Without these, swscale is up to 0.9 levels off in chroma; with them it only rounds (FFmpeg 8.1).
_FLAGS = av.video.reformatter.Interpolation
INTERPOLATION = _FLAGS.BICUBIC | _FLAGS.ACCURATE_RND | _FLAGS.FULL_CHR_H_INP


def check_ending(path: epath.PathLike) -> str:
  """The path's ending, in lower case; raises ValueError if it is none that `write` knows."""
  ending = pathlib.PurePath(path).suffix.lower()
  if ending not in ENCODERS:
    raise ValueError(f'{path} must end in {", ".join(ENCODERS)}: the ending says what is written.')
  return ending


def write(path: epath.PathLike, video_FHWC: np.ndarray, fps: float) -> None:
  """Writes uint8 RGB frames as the path's ending says; the file appears whole or not at all.

  Args:
    path: local or gs://...; parents are made.
    video_FHWC: uint8.
    fps: frames per second, > 0.

  Raises:
    ValueError: another ending than .mp4, .gif and .webp, or an odd size for an mp4.
  """
  _put(path, ENCODERS[check_ending(path)](np.asarray(video_FHWC), fps))


def write_mp4(path: epath.PathLike, video_FHWC: np.ndarray, fps: float) -> None:
  """As `write`, an mp4 whatever the ending; for files that only programs read.

  Args:
    path: local or gs://...; parents are made.
    video_FHWC: uint8; height and width even.
    fps: frames per second, > 0.

  Raises:
    ValueError: an odd size.
  """
  _put(path, mp4(np.asarray(video_FHWC), fps))


def _put(path: epath.PathLike, data: bytes) -> None:
  storage.write_bytes(epath.Path(path), data)


def mp4(video_FHWC: np.ndarray, fps: float) -> bytes:
  """H.264 in BT.709, video range, and tagged so: without tags, players guess by the size.

  Args:
    video_FHWC: uint8 RGB; height and width even.
    fps: frames per second, > 0.

  Raises:
    ValueError: an odd size, which yuv420p cannot hold.
  """
  _, height, width, _ = video_FHWC.shape
  if height % 2 or width % 2:
    raise ValueError(f'video size {width}x{height} must be even to be written as H.264.')
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=Fraction(fps).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
    stream.options = {'crf': CRF}
    codec = stream.codec_context
    codec.colorspace = av.video.reformatter.Colorspace.ITU709
    codec.color_primaries = av.video.reformatter.ColorPrimaries.BT709
    codec.color_trc = av.video.reformatter.ColorTrc.BT709
    codec.color_range = av.video.reformatter.ColorRange.MPEG
    for frame_HWC in video_FHWC:
      frame = av.VideoFrame.from_ndarray(frame_HWC, format='rgb24').reformat(
        format='yuv420p', dst_colorspace=codec.colorspace, dst_color_range=codec.color_range,
        interpolation=INTERPOLATION,
      )  # fmt: skip
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return buffer.getvalue()


def gif(video_FHWC: np.ndarray, fps: float) -> bytes:
  """An endless GIF, as long as the video: its delays are hundredths of a second, and so differ.

  Args:
    video_FHWC: uint8 RGB.
    fps: frames per second, > 0; above MAX_GIF_FPS only every second (third, ...) frame is kept.
  """
  step = math.ceil(fps / MAX_GIF_FPS)
  hundredths = _durations(len(video_FHWC), fps, 100, step)
  return _animation(video_FHWC[::step], 'GIF', [10 * delay for delay in hundredths])


def webp(video_FHWC: np.ndarray, fps: float) -> bytes:
  """An endless WebP; its delays are milliseconds.

  Args:
    video_FHWC: uint8 RGB.
    fps: frames per second, > 0.
  """
  durations = _durations(len(video_FHWC), fps, 1000)
  return _animation(video_FHWC, 'WEBP', durations, quality=WEBP_QUALITY)


def _durations(num_frames: int, fps: float, units: int, step: int = 1) -> list[int]:
  """Of every step-th frame, in whole units of a second, with the sum of all."""
  starts = [*range(0, num_frames, step), num_frames]
  return np.diff([round(start * units / fps) for start in starts]).tolist()


def _animation(
  video_FHWC: np.ndarray, kind: str, milliseconds: Sequence[int], **options: int
) -> bytes:
  frames = [PIL.Image.fromarray(np.asarray(frame_HWC)) for frame_HWC in video_FHWC]
  buffer = io.BytesIO()
  frames[0].save(
    buffer, kind, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, **options
  )
  return buffer.getvalue()


ENCODERS = {'.mp4': mp4, '.gif': gif, '.webp': webp}
