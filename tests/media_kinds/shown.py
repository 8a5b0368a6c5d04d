"""What the tests of videos ask: all frames as training sees them, and whether they are as drawn."""

import numpy as np
import pytest

from data_pipelines.media import containers, decode, probe
from data_pipelines.media import frames as frames_lib
from tests.media_kinds import clips

needs_ffmpeg = pytest.mark.skipif(
  clips.ffmpeg_path() is None, reason='imageio-ffmpeg, of the test requirements, is not installed.'
)


def whole(data):
  """(row of the sidecar, all frames as training sees them, their times)."""
  row = probe.probe(data, 'video', probe.SPECIAL)
  with containers.open_video(data) as video:
    times = [frame.time for frame in frames_lib.decode_all(video)]
  frames, _ = decode.decode_video(data, times, row['height'], row['width'])
  return row, frames, times


def assert_upright(frames, tolerance=3):
  for frame in (frames[0], frames[-1]):
    assert np.abs(clips.quadrants(frame) - clips.COLOURS).max() <= tolerance, clips.quadrants(frame)
