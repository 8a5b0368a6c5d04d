"""Measures against other people's code and against signals whose answer is known."""

import hashlib
import pathlib

import numpy as np
import pytest
import scipy.linalg
import skimage.metrics

from data_pipelines import demo_corpus
from i2vgen_jax.evaluation import clip_scores, frechet, measures, spectrum
from tests.data_pipelines.score.test_score import clip_folder, theirs  # noqa: F401

torch = pytest.importorskip('torch')

RNG = np.random.default_rng(3)
CLIP = demo_corpus.render_video(RNG, demo_corpus.attributes_of(0), size=64)[0]
NOISY = np.clip(CLIP + RNG.normal(0, 12, CLIP.shape), 0, 255).astype(np.uint8)


def test_psnr_and_ssim_are_those_of_scikit_image():
  ours = measures.likeness_to_image(NOISY, CLIP[0])
  for frame, psnr, ssim in zip(NOISY, ours['psnr_db'], ours['ssim'], strict=True):
    theirs = skimage.metrics.structural_similarity(
      frame, CLIP[0], channel_axis=-1, gaussian_weights=True, sigma=1.5,
      use_sample_covariance=False,
    )  # fmt: skip
    assert ssim == pytest.approx(theirs, abs=1e-6)
    assert psnr == pytest.approx(skimage.metrics.peak_signal_noise_ratio(CLIP[0], frame), abs=1e-9)


def test_flicker_is_seen_where_nothing_moves_and_nowhere_else():
  still_HW = measures.still_pixels(CLIP)
  assert 0.3 < still_HW.mean() < 0.95
  assert measures.flicker(CLIP, still_HW) < 0.1
  flickering = CLIP.copy()
  flickering[1::2] += 3
  assert measures.flicker(flickering, still_HW) == pytest.approx(3, abs=0.1)
  assert np.isnan(measures.flicker(CLIP, np.zeros_like(still_HW)))


def test_motion_magnitude_is_the_speed_of_a_shifted_picture():
  texture = np.kron(RNG.integers(0, 256, (24, 24), np.uint8), np.ones((4, 4), np.uint8))
  video = np.stack([np.roll(texture, 2 * k, 1)[16:80, 16:80] for k in range(5)])
  video = np.repeat(video[..., None], 3, -1)
  expected = 2 * 8 / np.hypot(64, 64)
  assert measures.motion_magnitude(video, fps=8) == pytest.approx(expected, rel=0.15)
  assert measures.motion_magnitude(video[:1].repeat(5, 0), fps=8) == pytest.approx(0, abs=1e-3)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says():
  means = [measures.mean_with_interval(RNG.normal(2, 1, 40)) for _ in range(100)]
  assert 86 <= sum(found['low'] < 2 < found['high'] for found in means) <= 99
  found = measures.mean_with_interval([1.0, float('nan'), 3.0])
  assert found['mean'] == 2 and found['num'] == 2 and found['low'] == 1
  assert measures.mean_with_interval([float('nan')]) is None


@pytest.mark.parametrize('size', [(32, 32), (24, 40)])
def test_a_wave_has_all_its_power_at_its_frequency(size):
  height, width = size
  x = np.arange(width)
  wave = 100 + 40 * np.cos(2 * np.pi * 0.25 * x)
  video = np.broadcast_to(wave[None, None, :, None], (3, height, width, 3))
  frequencies_K, power_K = spectrum.spatial(video)
  near = np.abs(frequencies_K - 0.25) < 3 / min(size)
  assert power_K[near].sum() == pytest.approx(power_K.sum(), rel=1e-3)
  assert power_K.sum() == pytest.approx(40**2 / 2, rel=0.05)


def test_a_pulse_in_time_has_its_power_at_its_frequency():
  value = 100 + 40 * np.sin(2 * np.pi * 3 / 16 * np.arange(16))
  video = np.broadcast_to(value[:, None, None, None], (16, 8, 8, 3))
  frequencies_K, power_K = spectrum.temporal(video)
  assert frequencies_K[power_K.argmax()] == 3 / 16
  assert power_K[3] == pytest.approx(40**2 / 2) and power_K.sum() == pytest.approx(power_K[3])


def test_spectra_sum_to_the_variance_of_noise_and_noise_is_fine():
  noise = RNG.normal(0, 1, (12, 64, 64, 1)) * np.ones(3)
  for kind in (spectrum.spatial, spectrum.temporal):
    assert kind(noise)[1].sum() == pytest.approx(1 - (kind is spectrum.temporal) / 12, rel=0.05)
  # The ring of radius 1/4 out of the square of side 1.
  assert spectrum.high_frequency_share(noise) == pytest.approx(1 - np.pi / 16, rel=0.05)
  blurred = (NOISY.astype(float) + np.roll(NOISY, 1, 1) + np.roll(NOISY, 1, 2)) / 3
  assert spectrum.high_frequency_share(blurred) < 0.5 * spectrum.high_frequency_share(NOISY)


def test_the_figure_of_the_spectra_is_drawn(tmp_path):
  spectra = spectrum.mean_spectra({'real': [CLIP], 'noise': [spectrum.noise_like(CLIP)]})
  spectrum.draw(spectra, tmp_path / 'a' / 'spectrum.png')
  assert (tmp_path / 'a' / 'spectrum.png').stat().st_size > 5000


@pytest.mark.parametrize('rows', [200, 5])
def test_frechet_distance_is_that_of_scipy(rows):
  """Also of fewer rows than features, where the covariances have no inverse."""
  a = RNG.normal(0, 1, (rows, 12))
  b = RNG.normal(0.3, 2, (rows + 3, 12)) @ RNG.normal(size=(12, 12))
  covariances = [np.cov(x, rowvar=False) for x in (a, b)]
  root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
  theirs = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(sum(covariances) - 2 * root)
  assert frechet.frechet_distance(a, b) == pytest.approx(theirs, rel=1e-5)
  assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
  with pytest.raises(ValueError, match='two rows at least'):
    frechet.frechet_distance(a[:1], b)


def test_the_interval_of_a_frechet_distance_is_as_wide_as_other_clips_make_it():
  """Of mostly a shift of the mean, whose spread over draws of clips is known by drawing them."""

  def draw(seed):
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(60, 4))
    return real + rng.normal(2, 1, (60, 4)), real

  found = [frechet.distance_with_interval(*draw(seed), 60) for seed in range(200)]
  spread = 1.96 * np.std([row['mean'] for row in found])
  half = np.mean([row['high'] - row['low'] for row in found]) / 2
  assert half == pytest.approx(spread, rel=0.2)
  assert all(row['low'] < row['mean'] < row['high'] and row['num'] == 60 for row in found)


def test_frames_of_a_video_are_left_out_together():
  """Eight equal frames each say no more than one: the interval is the videos'."""
  rng = np.random.default_rng(0)
  real, sampled = rng.normal(size=(30, 3)), rng.normal(1, 1, (30, 3))
  videos = frechet.distance_with_interval(sampled, real, 30)
  frames = frechet.distance_with_interval(np.repeat(sampled, 8, 0), np.repeat(real, 8, 0), 30)
  width = lambda row: row['high'] - row['low']  # noqa: E731
  assert width(frames) == pytest.approx(width(videos), rel=0.1)
  assert np.isnan(frechet.distance_with_interval(sampled[:2], real[:2], 2)['low'])
  with pytest.raises(ValueError, match='16 and 24 rows of features of 8 videos'):
    frechet.distance_with_interval(np.zeros((16, 3)), np.zeros((24, 3)), 8)


def test_features_come_from_a_torchscript_file_or_a_function(tmp_path):
  class Mean(torch.nn.Module):
    def forward(self, videos):
      return videos.mean((2, 3, 4))

  torch.jit.script(Mean()).save(tmp_path / 'mean.pt')
  features, digest = frechet.load_features(str(tmp_path / 'mean.pt'))
  videos = np.stack([CLIP, NOISY, CLIP])
  expected = (videos / 127.5 - 1).mean((1, 2, 3))
  np.testing.assert_allclose(frechet.of_videos(features, videos), expected, atol=1e-5)
  assert frechet.of_frames(features, videos).shape == (3 * len(CLIP), 3) and len(digest) == 64

  by_name, digest = frechet.load_features('tests.i2vgen_jax.evaluation.test_measures:mean_color')
  assert digest == hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
  np.testing.assert_allclose(frechet.of_videos(by_name, videos), expected, atol=1e-5)


class Scalar(torch.nn.Module):
  def forward(self, videos):
    return videos.mean()


class OfSevenVideos(torch.nn.Module):
  def forward(self, videos):
    return videos.reshape(7, -1)


class Pair(torch.nn.Module):
  def forward(self, videos):
    return videos, videos


@pytest.mark.parametrize(
  ('network', 'message'),
  [(Scalar, 'shape \\(\\), need'), (OfSevenVideos, 'takes no videos'), (Pair, 'returns a tuple')],
)
def test_features_of_another_shape_are_named_in_one_line(tmp_path, network, message):
  torch.jit.script(network()).save(tmp_path / 'n.pt')
  features, _ = frechet.load_features(str(tmp_path / 'n.pt'))
  with pytest.raises(ValueError, match=message) as error:
    frechet.of_videos(features, np.zeros((2, 2, 8, 8, 3), np.uint8))
  assert '\n' not in str(error.value)


def mean_color(videos_NCFHW):
  return videos_NCFHW.mean((2, 3, 4))


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('nowhere.pt', 'neither a file nor module:function'),
    ('tests.i2vgen_jax.evaluation.test_measures:nothing', 'cannot be imported'),
    (__file__, 'no TorchScript file'),
  ],
)
def test_features_that_are_none_are_named(source, message):
  with pytest.raises(ValueError, match=message):
    frechet.load_features(source)


def test_the_proxy_tells_videos_apart_and_repeats_itself():
  first, again = (frechet.of_videos(frechet.random_features(), np.stack([CLIP])) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - frechet.of_videos(frechet.random_features(), NOISY[None])).max() > 0.01


def test_clip_scores_are_cosines_of_transformers_vectors(clip_folder):  # noqa: F811
  folder, model = clip_folder
  videos, captions = [CLIP[:4, :32, :32], NOISY[:3, 32:, 32:]], ['a red circle', 'a blue square']
  scorer, digest = clip_scores.load(str(folder))
  assert len(digest) == 64
  for row, video, caption in zip(
    clip_scores.measure(scorer, videos, captions), videos, captions, strict=True
  ):
    images_FD, texts_1D = theirs(model, folder, video, [caption])
    assert row['clip_text'] == pytest.approx((images_FD @ texts_1D[0]).mean(), abs=1e-5)
    following = (images_FD[1:] * images_FD[:-1]).sum(-1)
    assert row['clip_frames'] == pytest.approx(following.mean(), abs=1e-5)
  # A frame of another size and shape: the centre, brought to CLIP's size.
  wide = np.kron(videos[0], np.ones((1, 2, 2, 1), np.uint8))
  wide = np.pad(wide, ((0, 0), (0, 0), (8, 8), (0, 0)))
  same, again = (clip_scores.measure(scorer, [v], captions[:1])[0] for v in (videos[0], wide))
  assert same == pytest.approx(again, abs=1e-5)
