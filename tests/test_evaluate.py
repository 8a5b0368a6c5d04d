"""The yardstick: real clips score full marks, and broken ones do not."""

import numpy as np
import pytest

from data_pipelines import demo_corpus
from i2vgen_jax import evaluate


def clips(count=24):
  rng = np.random.default_rng(5)
  made = [
    demo_corpus.render_video(rng, demo_corpus.attributes_of(i), size=64) for i in range(count)
  ]
  return np.stack([frames for frames, _, _ in made]), [caption for _, caption, _ in made]


VIDEOS, CAPTIONS = clips()


def test_real_clips_move_as_captioned_and_keep_their_colour():
  found = evaluate.measure(VIDEOS, VIDEOS, CAPTIONS)
  assert found['follows_caption'] == 1.0 and found['keeps_color'] == 1.0
  assert found['first_frame_psnr_db'] > 90


def test_reversed_clips_move_the_other_way():
  assert evaluate.measure(VIDEOS[:, ::-1], VIDEOS, CAPTIONS)['follows_caption'] == 0.0


def test_still_clips_have_no_direction():
  found = evaluate.measure(np.repeat(VIDEOS[:, :1], 8, 1), VIDEOS, CAPTIONS)
  assert found['follows_caption'] == 0.0 and found['stands_still'] == 1.0


def test_a_video_of_noise_is_not_taken_for_motion_in_one_direction():
  noise = np.random.default_rng(0).integers(0, 256, VIDEOS.shape, np.uint8)
  assert evaluate.measure(noise, VIDEOS, CAPTIONS)['follows_caption'] < 0.3


def test_swapped_channels_lose_the_colour():
  assert evaluate.measure(VIDEOS[..., ::-1], VIDEOS, CAPTIONS)['keeps_color'] < 0.7


def test_psnr_is_that_of_a_known_error():
  image = np.zeros((4, 4, 3), np.uint8)
  assert evaluate.psnr(image, image + 16) == pytest.approx(20 * np.log10(255 / 16))
