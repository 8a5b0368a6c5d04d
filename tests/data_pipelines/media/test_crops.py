"""The content of a letterboxed frame is what a cut shows of it."""

import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.media import crops, decode


def test_a_cut_lies_in_the_content_and_no_smaller_scale_would_cover_it():
  rng = np.random.default_rng(0)
  for _ in range(500):
    size = tuple(rng.integers(64, 2000, 2).tolist())
    cut = tuple((8 * rng.integers(4, 90, 2)).tolist())
    start, end = rng.uniform(0, 0.4, 2), rng.uniform(0.6, 1, 2)
    content = (*start, *(end - start))
    scaled, first = crops.cover_content(size, content, *cut)
    over = []
    for side in (0, 1):
      low, high = start[side] * scaled[side], end[side] * scaled[side]
      assert low - 1 <= first[side] and first[side] + cut[side] <= high + 1
      assert abs((first[side] - low) - (high - first[side] - cut[side])) <= 2  # Its centre.
      over.append((end[side] - start[side]) * scaled[side] - cut[side])
    assert -1e-3 <= min(over) <= 1
    assert scaled[0] / size[0] == pytest.approx(scaled[1] / size[1], abs=1.1 / min(size))
  assert crops.cover_content((256, 448), (0, 0, 1, 1), 256, 448) == ((256, 448), (0, 0))


def test_frames_are_cropped_to_the_content_before_they_are_scaled():
  """As decoding the content alone, which another file holds."""
  rng = np.random.default_rng(1)
  inner = rng.integers(60, 200, (6, 16, 24, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
  boxed = np.zeros((6, 192, 256, 3), np.uint8)
  boxed[:, 32:160, 32:224] = inner
  found, wanted = (
    [np.empty((6, 64, 64, 3), np.uint8), np.empty((1, 32, 32, 3), np.uint8)] for _ in range(2)
  )
  for pixels, frames, content in (
    (found, boxed, (32 / 192, 32 / 256, 128 / 192, 192 / 256)),
    (wanted, inner, ()),
  ):
    views = [decode.View(pixels[0], range(6)), decode.View(pixels[1], (0,), is_square=True)]
    data = demo_corpus.encode_video(frames, fps=8)
    decode.decode_video_into(views, data, np.arange(6) / 8, content=content)
  for one, other in zip(found, wanted, strict=True):
    assert np.abs(one.astype(int) - other).mean() < 3  # Two encodings.
    assert one.min() > 30
