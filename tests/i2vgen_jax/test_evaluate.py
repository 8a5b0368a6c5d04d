"""The yardstick: real clips score full marks, and broken ones do not."""

import numpy as np
import pytest

from data_pipelines import demo_corpus
from i2vgen_jax import evaluate
from i2vgen_jax.evaluation import report, shapes


def clips(count=24):
  rng = np.random.default_rng(5)
  made = [
    demo_corpus.render_video(rng, demo_corpus.attributes_of(i), size=64) for i in range(count)
  ]
  return np.stack([frames for frames, _, _ in made]), [caption for _, caption, _ in made]


VIDEOS, CAPTIONS = clips()


def share(name, videos):
  return np.mean([shapes.measure(v, c)[name] for v, c in zip(videos, CAPTIONS, strict=True)])


def test_real_clips_move_as_captioned_and_keep_their_colour():
  assert share('follows_caption', VIDEOS) == 1.0 and share('keeps_color', VIDEOS) == 1.0


def test_reversed_clips_move_the_other_way():
  assert share('follows_caption', VIDEOS[:, ::-1]) == 0.0


def test_still_clips_have_no_direction():
  still = np.repeat(VIDEOS[:, :1], 8, 1)
  assert share('follows_caption', still) == 0.0 and share('stands_still', still) == 1.0


def test_a_video_of_noise_is_not_taken_for_motion_in_one_direction():
  noise = np.random.default_rng(0).integers(0, 256, VIDEOS.shape, np.uint8)
  assert share('follows_caption', noise) < 0.3


def test_swapped_channels_lose_the_colour():
  assert share('keeps_color', VIDEOS[..., ::-1]) < 0.7


def test_captions_of_videos_are_known_from_others():
  assert shapes.is_demo(CAPTIONS)
  assert not shapes.is_demo([*CAPTIONS, 'a red circle']) and not shapes.is_demo(['a dog runs up'])


def test_the_gain_is_taken_clip_by_clip():
  real = np.full((2, 3, 8, 8, 3), 100, np.uint8)
  near, far = real + np.uint8(2), real + np.uint8(4)
  near[1], far[1] = 110, 120
  found = evaluate.gain(near, far, real)
  assert found['mean'] == pytest.approx(20 * np.log10(2)) and found['num'] == 2
  assert found['low'] == pytest.approx(found['high'])  # Hard and easy clips gain the same.


@pytest.mark.parametrize('count', [evaluate.FEWEST - 1, evaluate.FEWEST])
def test_real_clips_are_not_compared_with_themselves_and_few_are_warned_of(count, monkeypatch):
  said = []
  monkeypatch.setattr(evaluate.logging, 'warning', lambda text, *values: said.append(text % values))
  videos = np.zeros((count, 2, 16, 16, 3), np.uint8)
  found = evaluate.measure_sets(dict(real=videos, sampled=videos), videos, ['a'] * count, 8)
  for name in evaluate.TO_REAL:
    assert found['real'][name] is None and found['sampled'][name]['num'] == count
  assert '| psnr_db |  | 1' in report.markdown_table(found)
  assert ('Intervals of 15 clips are too narrow' in ''.join(said)) == (count == 15)
