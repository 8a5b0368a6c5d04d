"""What ingest needs to know of a media file; of a damaged video, of what precedes the damage."""

import numpy as np

from data_pipelines import decode
from data_pipelines import frames as frames_lib

MIN_PREFIX_SECS = 1.0  # Less than that is not worth keeping of a damaged video.


def probe(data: bytes, media: str) -> dict:
  """Measures media by decoding it: the columns of schema.SIDECAR but `key` and `media`.

  Raises:
    decode.DecodeError: it cannot be used; of a video, not even its first second.
  """
  try:
    return dict(decode.probe(data, media), is_truncated=False)
  except decode.DecodeError as error:
    row = _probe_prefix(data) if media == 'video' and error.reason == 'decode' else None
    if row is None:
      raise
    return row


def _probe_prefix(data):
  """As decode.probe, of the frames before the first damaged one; None if they are too short."""
  times = []
  with frames_lib.open_video(data) as (container, stream, aspect):
    try:
      for frame in frames_lib.decode_all(container, stream):
        times.append(frame.time)
        height, width = frame.height, max(1, round(frame.width * aspect))
        size = (width, height) if frame.rotation % 180 else (height, width)
    except decode.DecodeError:
      pass
  # The last one may be damaged without the decoder's knowing. Behind it there is a frame, so that
  # decoding up to a time never reaches the damage.
  times = times[:-1]
  intervals = np.diff(times)
  if len(times) < 2 or times[-1] - times[0] < MIN_PREFIX_SECS or intervals.min() <= 0:
    return None
  duration = times[-1] - times[0]
  return dict(
    num_bytes=len(data), num_frames=len(times), first_time=times[0], duration=duration,
    fps=(len(times) - 1) / duration, height=size[0], width=size[1],
    is_variable_rate=bool(intervals.max() >= 1.5 * intervals.min()), is_truncated=True,
  )  # fmt: skip
