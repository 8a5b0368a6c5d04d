"""Any video through a refinement stage, piece by piece."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np
import PIL.Image
from absl import logging
from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import decode, errors, probe
from i2vgen_jax.sampling import stages as stages_lib
from i2vgen_jax.sampling import video_file


@dataclasses.dataclass(frozen=True)
class Source:
  """A video file.

  Attributes:
    data: its bytes.
    fps: at which its frames are taken.
    times: presentation times of the frames to take, in seconds.
    height, width: as it is shown, pixels.
  """

  data: bytes
  fps: float
  times: np.ndarray
  height: int
  width: int

  def frames(self, height: int, width: int, part: slice) -> np.ndarray:
    """uint8 (F, height, width, 3): scaled to cover the size, and cut to its centre."""
    return decode.decode_video(self.data, self.times[part], height, width)[0]


def read(path: epath.PathLike, fps: float | None = None) -> Source:
  """Opens a video; HDR is tone-mapped and interlaced frames are deinterlaced, as in training.

  Args:
    path: of the file; on a disk or in a bucket.
    fps: at which to take its frames; None takes each as it is.

  Raises:
    ValueError: it cannot be read or decoded, or has fewer frames per second.
  """
  try:
    data = epath.Path(path).read_bytes()
    known = probe.probe(data, 'video', probe.SPECIAL)
  except (OSError, errors.DecodeError) as error:
    raise ValueError(f'video {path} cannot be read: {user_errors.reason(error)}.') from error
  rate = fps or known['fps']
  if rate > known['fps'] * 1.001:
    raise ValueError(f'fps={fps} exceeds the {known["fps"]:g} of video {path}: give less.')
  num = int(known['duration'] * rate + 1e-3) + 1
  times = known['first_time'] + np.arange(num) / rate
  return Source(data, rate, times, known['height'], known['width'])


def pieces(total: int, most: int) -> Iterator[tuple[slice, int]]:
  """(frames of a piece, how many of its first are in the piece before) of a video.

  Each has `most` frames, as training's clips; so the last one begins earlier. A shorter video is
  one piece.
  """
  for start in range(0, total, most):
    begin = max(0, min(start, total - most))
    yield slice(begin, min(begin + most, total)), start - begin


def refine(
  stage: stages_lib.Stage,
  source: Source,
  caption: str,
  seed: int,
  path: epath.PathLike,
  more: Mapping[str, str] | None = None,
) -> None:
  """Refines a video and writes it.

  Args:
    stage: a refinement stage; pieces have as many frames as its bucket.
    source: of `read`.
    caption: what happens; the same for all pieces.
    seed: of the noise, the same for all pieces.
    path: of the video; its ending says what is written, see video_file.write.
    more: values of the signals' own flags.
  """
  stage = stage.fitting(source.height, source.width)
  bucket = stage.bucket
  decode_part = functools.partial(source.frames, bucket.height, bucket.width)
  made = []
  parts = list(pieces(len(source.times), bucket.frames))
  for number, (part, num_known) in enumerate(parts, 1):
    logging.info('piece %d of %d: frames %d to %d', number, len(parts), part.start, part.stop - 1)
    video_FHWC = decode_part(part)
    own = dataclasses.replace(bucket, frames=len(video_FHWC), fps=source.fps, framing=None)
    first = PIL.Image.fromarray(video_FHWC[0])
    refined = dataclasses.replace(stage, bucket=own).run(first, caption, seed, video_FHWC, more)
    made.append(refined[num_known:])
  video_file.write(path, np.concatenate(made), source.fps)
  logging.info('%d frames at %g fps in %s', len(source.times), source.fps, path)
