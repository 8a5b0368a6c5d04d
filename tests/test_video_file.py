"""Videos written are the videos that players read."""

import av
import numpy as np
import pytest

from i2vgen_jax import video_file


def clip(value):
  frames = np.full((5, 16, 24, 3), value, np.uint8)
  frames[:, :, :12] = 255 - value
  return frames


def read(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    return np.stack([f.to_ndarray(format='rgb24') for f in container.decode(stream)]), stream


@pytest.mark.parametrize('fps', [8, 16, 29.97, 2.5])
def test_frames_and_rate_come_back(fps, tmp_path):
  video_file.write_mp4(tmp_path / 'new' / 'a.mp4', clip(60), fps)
  frames, stream = read(tmp_path / 'new' / 'a.mp4')
  assert frames.shape == (5, 16, 24, 3)
  assert np.abs(frames.astype(int) - clip(60)).mean() < 6  # H.264 with halved chroma.
  assert float(stream.average_rate) == pytest.approx(fps, rel=1e-3)
  assert stream.codec_context.name == 'h264' and stream.codec_context.pix_fmt == 'yuv420p'


def test_an_existing_video_is_replaced_and_nothing_is_left_beside(tmp_path):
  video_file.write_mp4(tmp_path / 'a.mp4', clip(60), 8)
  video_file.write_mp4(tmp_path / 'a.mp4', clip(200), 8)
  assert read(tmp_path / 'a.mp4')[0][0, 0, 20, 0] > 150
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_odd_sizes_are_refused(tmp_path):
  with pytest.raises(ValueError, match='15x16 must be even'):
    video_file.write_mp4(tmp_path / 'a.mp4', np.zeros((2, 16, 15, 3), np.uint8), 8)
