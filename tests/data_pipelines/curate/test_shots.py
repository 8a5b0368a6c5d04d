"""Shots end at cuts and gradual transitions, and nowhere else; plain frames are of none."""

import cv2
import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.curate import measure, shots

HEIGHT, WIDTH, FPS = 144, 256, 24


def pan(seed, num_frames, pixels_per_frame=1.0):
  """A camera's way over a texture of its own colours: uint8 (F, H, W, 3)."""
  rng = np.random.default_rng(seed)
  noise = rng.random((HEIGHT, WIDTH + int(pixels_per_frame * num_frames) + 1, 3))
  scene = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 12)
  scene = rng.uniform(80, 170, 3) + 40 * (scene - scene.mean()) / scene.std()
  scene = np.clip(scene, 0, 255).astype(np.uint8)
  starts = (int(pixels_per_frame * i) for i in range(num_frames))
  return np.stack([scene[:, start : start + WIDTH] for start in starts])


def blend(before, after, count):
  """The films joined by a dissolve of `count` frames."""
  weight = (np.arange(count) + 1)[:, None, None, None] / (count + 1)
  mixed = before[-count:] * (1 - weight) + after[:count] * weight
  return np.concatenate([before[:-count], np.rint(mixed).astype(np.uint8), after[count:]])


def plain(color, num_frames):
  return np.full((num_frames, HEIGHT, WIDTH, 3), color, np.uint8)


def detected(frames):
  detector = shots.ShotDetector(FPS)
  for frame_HWC in frames:
    detector.add(frame_HWC)
  return detector.finish()


@pytest.mark.parametrize('count', [6, 12, 28])
def test_a_dissolve_ends_one_shot_and_begins_the_next(count):
  found = detected(blend(pan(0, 60), pan(1, 70), count))
  [(start, stop)] = found.transitions
  assert found.shots == [(0, start), (stop, 130 - count)]
  # All of its frames, and few others.
  assert 60 - count - 6 <= start <= 60 - count + 1 and 59 <= stop <= 66


@pytest.mark.parametrize('color', [0, 255])
def test_a_fade_is_one_transition_whose_plain_frames_are_of_no_shot(color):
  out = blend(pan(0, 50), plain(color, 30), 12)
  found = detected(blend(out, pan(1, 50), 10))
  (first, stop), (start, last) = found.shots
  assert (first, last) == (0, 108)
  assert 36 <= stop <= 40 and 68 <= start <= 71  # Of frames 38 to 67.
  [(start, stop)] = found.plain
  assert 48 <= start <= 50 and 58 <= stop <= 60


def test_a_cut_is_found_to_the_frame():
  found = detected(np.concatenate([pan(0, 40), pan(1, 40)]))
  assert found.transitions == [(40, 40)] and found.shots == [(0, 40), (40, 80)]


@pytest.mark.parametrize('pixels_per_frame', [4.0, 12.0])
def test_fast_motion_is_no_transition(pixels_per_frame):
  assert detected(pan(3, 96, pixels_per_frame)).shots == [(0, 96)]


def test_a_whip_pan_is_no_transition():
  still, slow = pan(4, 1)[0], pan(4, 40)
  wide = np.concatenate([still, still[:, ::-1], still], axis=1)
  turn = [cv2.blur(wide, (60, 1))[:, 50 * i : 50 * i + WIDTH] for i in range(10)]
  assert len(detected(np.concatenate([slow[::-1], turn, slow])).shots) == 1


@pytest.mark.parametrize('levels', [[1.0], [0.6, 1.0, 0.5, 0.2]])
def test_a_flash_is_no_cut(levels):
  frames = pan(5, 80).astype(np.float32)
  for i, level in enumerate(levels):
    frames[40 + i] += level * (255 - frames[40 + i])
  assert detected(np.rint(frames).astype(np.uint8)).shots == [(0, 80)]


def test_black_and_titles_are_of_no_shot():
  title = plain(4, 30)
  for frame in title:
    cv2.putText(frame, 'THE END', (70, 80), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (230, 230, 230), 2)
  found = detected(np.concatenate([plain(0, 12), pan(6, 40), title]))
  assert found.shots == [(12, 52)] and found.plain == [(0, 12), (52, 82)]
  assert detected(plain(0, 20)).shots == []


@pytest.mark.parametrize('radius', [14, 30])
def test_a_plain_backdrop_with_something_before_it_is_a_shot(radius):
  for color in (0, 128, 255):  # On black, what moves is no title.
    frames = plain(color, 40)
    for i, frame in enumerate(frames):
      cv2.circle(frame, (60 + 3 * i, 72), radius, (220, 60, 30), -1)
    assert detected(frames).shots == [(0, 40)]


def test_the_demo_corpus_is_all_shots():
  for index in range(4):
    attributes = demo_corpus.attributes_of(index)
    frames, _, _ = demo_corpus.render_video(np.random.default_rng(index), attributes)
    row = measure.measure(demo_corpus.encode_video(frames), 'video', 16, {})
    assert row['num_shots'] == 1 and row['span_end'] - row['span_start'] >= 0.9


def test_streamed_spans_hold_neither_black_nor_blends():
  frames = np.concatenate([pan(0, 40), plain(0, 12), blend(pan(1, 60), pan(2, 50), 14)])
  row = measure.measure(demo_corpus.encode_video(frames, FPS), 'video', FPS, {})
  start, end = round(row['span_start'] * FPS), round(row['span_end'] * FPS)
  assert row['num_shots'] == 3 and 52 <= start <= 53 and 90 <= end <= 97
