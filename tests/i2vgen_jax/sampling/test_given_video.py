"""A given video as the source of a refinement: its pieces and its frames."""

import numpy as np
import pytest

from i2vgen_jax.sampling import given_video, video_file


def test_pieces_have_one_length_and_the_last_begins_earlier():
  assert list(given_video.pieces(10, 4)) == [
    (slice(0, 4), 0), (slice(4, 8), 0), (slice(6, 10), 2),
  ]  # fmt: skip
  assert list(given_video.pieces(8, 4)) == [(slice(0, 4), 0), (slice(4, 8), 0)]
  assert list(given_video.pieces(3, 4)) == [(slice(0, 3), 0)]


@pytest.fixture
def film(tmp_path):
  """Ten frames at 8 fps, each brighter than the last."""
  video = np.repeat(20 * np.arange(1, 11, dtype=np.uint8), 48 * 64 * 3).reshape(10, 48, 64, 3)
  video_file.write(tmp_path / 'film.mp4', video, 8)
  return tmp_path / 'film.mp4'


@pytest.mark.parametrize('fps, taken', [(None, range(10)), (4, range(0, 10, 2))])
def test_each_frame_is_taken_or_so_many_a_second(fps, taken, film):
  source = given_video.read(film, fps)
  assert (source.height, source.width, source.fps) == (48, 64, pytest.approx(fps or 8))
  frames = source.frames(32, 32, slice(0, None))
  np.testing.assert_allclose(frames.mean((1, 2, 3)), [20 * (i + 1) for i in taken], atol=3)
  part = source.frames(32, 32, slice(1, 3))
  np.testing.assert_array_equal(part, frames[1:3])


def test_what_is_no_video_and_frames_that_are_not_there_are_refused(film, tmp_path):
  (tmp_path / 'text.mp4').write_text('no video')
  for path, fps, message in (
    (tmp_path / 'text.mp4', None, 'text.mp4 cannot be read'),
    (tmp_path / 'none.mp4', None, 'none.mp4 cannot be read'),
    (film, 30, 'fps=30 exceeds the 8 of'),
  ):
    with pytest.raises(ValueError, match=message):
      given_video.read(path, fps)
