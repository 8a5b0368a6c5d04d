"""What ingest needs to know of a media file; of a damaged video, of what precedes the damage."""

from typing import Any

import numpy as np

from data_pipelines.media import decode, display
from data_pipelines.media import frames as frames_lib

MIN_PREFIX_SECS = 1.0  # Less than that is not worth keeping of a damaged video.


def probe(data: bytes, media: str) -> dict:
  """Measures media by decoding it: the columns of schema.SIDECAR but `key` and `media`.

  Raises:
    decode.DecodeError: it cannot be used; of a video, not even its first second.
  """
  if media == 'video':
    return dict(num_bytes=len(data), **_probe_video(data))
  image = decode.decode_image(data)
  return dict(
    num_bytes=len(data), num_frames=1, first_time=0.0, duration=0.0, fps=0.0,
    is_variable_rate=False, height=image.height, width=image.width, is_truncated=False,
  )  # fmt: skip


def _probe_video(data: bytes) -> dict[str, Any]:
  times: list[float] = []
  damage: decode.DecodeError | None = None
  height = width = 0
  with frames_lib.open_video(data) as video:
    try:
      for frame in frames_lib.decode_all(video, as_stored=True):
        times.append(frame.time)
        height, width = display.size(frame, video.aspect)
    except decode.DecodeError as error:
      if error.reason != 'decode':
        raise
      damage = error
  if damage is not None:
    # The last one may be damaged without the decoder's knowing. Behind it there is a frame, so that
    # decoding up to a time never reaches the damage.
    times = times[:-1]
    if len(times) < 2 or times[-1] - times[0] < MIN_PREFIX_SECS:
      raise damage
  if len(times) < 2:
    raise decode.DecodeError('single_frame', f'{len(times)} frames decode; a video has at least 2.')
  intervals = np.diff(times)
  if intervals.min() <= 0:
    raise damage or decode.DecodeError('timestamps', 'presentation times do not increase.')
  duration = times[-1] - times[0]
  return dict(
    num_frames=len(times), first_time=times[0], duration=duration, fps=(len(times) - 1) / duration,
    is_variable_rate=bool(intervals.max() >= 1.5 * intervals.min()), height=height, width=width,
    is_truncated=damage is not None,
  )  # fmt: skip
