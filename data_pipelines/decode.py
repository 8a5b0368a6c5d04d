"""Encoded media to pixels, with frames chosen by presentation time: right for variable rates too.

PyAV in one thread per example: the loader's parallelism is over examples. Every failure is a
DecodeError; nothing is ever padded or left black.
"""

import contextlib
import io

import av
import numpy as np
import PIL.Image
import PIL.ImageOps

from data_pipelines import transforms

SEEK_AFTER_SECS = 1.0  # Below this, decoding from the start costs less than a seek risks.
# Without chroma at full width and rounding, swscale's RGB is 1.7 of 255 too dark (FFmpeg 8.1).
_FLAGS = av.video.reformatter.Interpolation
INTERPOLATION = _FLAGS.AREA | _FLAGS.FULL_CHR_H_INT | _FLAGS.ACCURATE_RND
FFMPEG_ERRORS = (av.FFmpegError, ValueError, OSError, EOFError, MemoryError)
PIL_ERRORS = (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError)


class DecodeError(ValueError):
  """Media that cannot be used: `reason` is a short code to count by."""

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason}: {detail}' if detail else reason)
    self.reason = reason
    self.detail = detail


def probe(data: bytes, media: str) -> dict:
  """Measures media by decoding it: the columns of schema.SIDECAR but `key` and `media`."""
  if media == 'video':
    return dict(num_bytes=len(data), **_probe_video(data))
  image = decode_image(data)
  return dict(
    num_bytes=len(data), num_frames=1, first_time=0.0, duration=0.0, fps=0.0,
    is_variable_rate=False, height=image.height, width=image.width,
  )  # fmt: skip


def decode_video(
  data: bytes, times: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, PIL.Image.Image]:
  """As decode_video_into: (frames uint8 (F, height, width, 3), the first at the source's size)."""
  frames_FHWC = np.empty((len(times), height, width, 3), np.uint8)
  first_frame = decode_video_into(frames_FHWC, data, times)
  return frames_FHWC, first_frame


def decode_video_into(frames_FHWC: np.ndarray, data: bytes, times: np.ndarray) -> PIL.Image.Image:
  """Decodes the frames nearest to given presentation times.

  Args:
    frames_FHWC: uint8, filled; the video is scaled to cover its size and cut to the centre.
    data: an encoded video.
    times: F ascending presentation times in seconds, on the file's own clock.
  Returns:
    The first of the frames, at the source's size.
  Raises:
    DecodeError: if the file is damaged or ends before the last time.
  """
  height, width = frames_FHWC.shape[1:3]
  times = np.asarray(times).tolist()
  convert = _Converter()
  previous = None
  with _open_video(data) as (container, stream, aspect):
    frames = _nearest(_decode(container, stream, times[0]), times)
    for index, frame in enumerate(frames):
      if frame is previous:
        frames_FHWC[index] = frames_FHWC[index - 1]
        continue
      if previous is None:
        source_size = _display_size(frame, aspect)
        first_frame = PIL.Image.fromarray(convert(frame, *source_size))
        scaled_size = transforms.scaled_size(*source_size, height, width)
      frames_FHWC[index] = transforms.center_crop(convert(frame, *scaled_size), height, width)
      previous = frame
  return first_frame


def decode_image(data: bytes) -> PIL.Image.Image:
  """Decodes a still image to RGB, upright."""
  try:
    image = PIL.Image.open(io.BytesIO(data))
    return PIL.ImageOps.exif_transpose(image).convert('RGB')
  except PIL_ERRORS as error:
    raise DecodeError('image', str(error)) from error


def _probe_video(data):
  times = []
  with _open_video(data) as (container, stream, aspect):
    for frame in _decode(container, stream):
      times.append(frame.time)
      height, width = _display_size(frame, aspect)
  if len(times) < 2:
    raise DecodeError('single_frame', f'{len(times)} frames decode; a video has at least 2.')
  intervals = np.diff(times)
  if intervals.min() <= 0:
    raise DecodeError('timestamps', 'presentation times do not increase.')
  duration = times[-1] - times[0]
  return dict(
    num_frames=len(times), first_time=times[0], duration=duration, fps=(len(times) - 1) / duration,
    is_variable_rate=bool(intervals.max() >= 1.5 * intervals.min()), height=height, width=width,
  )  # fmt: skip


@contextlib.contextmanager
def _open_video(data):
  """Yields (container, its first video stream, width of a pixel over its height)."""
  try:
    if not data:
      raise DecodeError('open', 'the file is empty.')
    container = av.open(io.BytesIO(data), metadata_errors='replace')
  except FFMPEG_ERRORS as error:
    raise error if isinstance(error, DecodeError) else DecodeError('open', str(error)) from error
  with container:
    if not container.streams.video:
      raise DecodeError('no_video', 'there is no video stream.')
    stream = container.streams.video[0]
    stream.thread_count = 1
    yield container, stream, float(stream.sample_aspect_ratio or 1)


def _decode(container, stream, from_time=None):
  """Yields the frames in presentation order, from one that is not later than from_time on."""
  count = 0
  start = (stream.start_time or 0) * float(stream.time_base)
  seeks = from_time is not None and from_time - start > SEEK_AFTER_SECS
  try:
    if seeks:
      container.seek(int(from_time / stream.time_base), stream=stream)
    for frame in container.decode(stream):
      if frame.pts is None:
        raise DecodeError('timestamps', f'frame {count} has no presentation time.')
      if frame.is_corrupt:
        raise DecodeError('decode', f'frame {count} is damaged.')
      if seeks and count == 0 and frame.time > from_time:  # A broken index: take the long way.
        container.seek(0)
        yield from _decode(container, stream)
        return
      count += 1
      yield frame
  except FFMPEG_ERRORS as error:
    if isinstance(error, DecodeError):
      raise
    raise DecodeError('decode', f'after {count} frames: {error}') from error


def _nearest(frames, times):
  """Yields, for each of the ascending times, the frame whose presentation time is nearest."""
  wanted = iter(times)
  time = next(wanted)
  previous = None
  for frame in frames:
    while frame.time >= time:
      before = previous is not None and time - previous.time <= frame.time - time
      yield previous if before else frame
      time = next(wanted, None)
      if time is None:
        return
    gap = frame.time - previous.time if previous is not None else 0.0
    previous = frame
  # The last frame stands for times up to half an interval after it.
  while previous is not None and time is not None and time - previous.time <= 0.5 * gap + 1e-3:
    yield previous
    time = next(wanted, None)
  if time is not None:
    end = 'no frames' if previous is None else f'{previous.time:.3f} s'
    raise DecodeError('too_short', f'it ends at {end}; a frame at {time:.3f} s is wanted.')


def _display_size(frame, aspect):
  """(height, width) with square pixels, upright."""
  height, width = frame.height, max(1, round(frame.width * aspect))
  return (width, height) if frame.rotation % 180 else (height, width)


class _Converter:
  """Frames to upright RGB arrays of a given size; keeps its scaling tables from frame to frame."""

  def __init__(self):
    self.reformatters = {}

  def __call__(self, frame, height, width):
    turns = round(frame.rotation / 90) % 4
    stored = (width, height) if turns % 2 else (height, width)
    if stored not in self.reformatters:
      self.reformatters[stored] = av.video.reformatter.VideoReformatter()
    try:
      rgb = self.reformatters[stored].reformat(
        frame, stored[1], stored[0], 'rgb24', interpolation=INTERPOLATION, threads=1
      )
    except FFMPEG_ERRORS as error:
      raise DecodeError('convert', f'{frame.format.name}: {error}') from error
    plane = rgb.planes[0]  # A view: the one copy is that into the batch.
    rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)
    pixels_HWC = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
    return np.rot90(pixels_HWC, turns) if turns else pixels_HWC
