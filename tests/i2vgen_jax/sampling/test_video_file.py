"""Videos written are the videos that players read."""

import av
import numpy as np
import pytest

from i2vgen_jax.sampling import video_file


def clip(value):
  frames = np.full((5, 16, 24, 3), value, np.uint8)
  frames[:, :, :12] = 255 - value
  return frames


def read(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    # Taken while the file is open: a stream's fields lie in memory that closing it frees.
    codec = stream.codec_context
    return np.stack(frames), (float(stream.average_rate), codec.name, codec.pix_fmt)


@pytest.mark.parametrize('fps', [8, 16, 29.97, 2.5])
def test_frames_and_rate_come_back(fps, tmp_path):
  video_file.write_mp4(tmp_path / 'new' / 'a.mp4', clip(60), fps)
  frames, (rate, codec, pix_fmt) = read(tmp_path / 'new' / 'a.mp4')
  assert frames.shape == (5, 16, 24, 3)
  assert np.abs(frames.astype(int) - clip(60)).mean() < 6  # H.264 with halved chroma.
  assert rate == pytest.approx(fps, rel=1e-3)
  assert codec == 'h264' and pix_fmt == 'yuv420p'


def test_an_existing_video_is_replaced_and_nothing_is_left_beside(tmp_path):
  video_file.write_mp4(tmp_path / 'a.mp4', clip(60), 8)
  video_file.write_mp4(tmp_path / 'a.mp4', clip(200), 8)
  assert read(tmp_path / 'a.mp4')[0][0, 0, 20, 0] > 150
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_odd_sizes_are_refused(tmp_path):
  with pytest.raises(ValueError, match='15x16 must be even'):
    video_file.write_mp4(tmp_path / 'a.mp4', np.zeros((2, 16, 15, 3), np.uint8), 8)
