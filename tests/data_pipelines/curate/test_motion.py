"""What a camera does is told apart from what it films, and one movement of it from another."""

import numpy as np
import pytest

from benchmarks.curation_quality import motion as paths
from tests import media


@pytest.mark.parametrize('path', paths.PATHS)
def test_each_movement_of_a_camera_is_in_its_own_column(path):
  truth = paths.PATHS[path]
  row = paths.measured(paths.frames(media.scene(2, 240, 420), **truth))
  for column in paths.COLUMNS:
    wanted = truth.get(column, 0.0)
    assert row[column] == pytest.approx(wanted, abs=0.01 + 0.12 * abs(wanted)), column
  assert row['camera_motion'] <= row['motion']
  assert row['object_motion'] < 0.01


def test_the_cameras_part_is_never_more_than_the_whole():
  """A body that the camera follows stays where it is, and lessens the whole."""
  greys = paths.frames(media.scene(2, 240, 420), pan=0.15)
  body = media.scene(5, 90, 150)[..., 0]
  for grey in greys:
    grey[30:120, 50:200] = body
  row = paths.measured(greys)
  assert row['motion'] == pytest.approx(0.15 * (1 - 90 * 150 / 144 / 256), rel=0.1)
  assert row['camera_motion'] == pytest.approx(row['motion'], rel=0.2)
  assert row['camera_motion'] <= row['motion']
  assert row['object_motion'] > 0.03 and row['pan'] == pytest.approx(0.15, rel=0.1)


def test_no_pair_of_frames_has_no_motion():
  assert paths.measured([np.zeros((144, 256), np.uint8)]) == {}
