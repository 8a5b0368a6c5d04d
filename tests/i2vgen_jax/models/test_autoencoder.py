"""Videos to latents and back, and the picture as CLIP takes it."""

import jax
import numpy as np
import pytest

from i2vgen_jax.conditions import signals
from i2vgen_jax.models import autoencoder, clip, vae
from i2vgen_jax.pretrained import frozen as frozen_lib

FAST_COMPILE = {'xla_backend_optimization_level': 0}


def make(frames_per_chunk):
  return autoencoder.Autoencoder(
    vae=vae.AutoencoderKL(block_channels=(8,), layers_per_block=1, norm_groups=4),
    scaling_factor=0.5,
    frames_per_chunk=frames_per_chunk,
  )


IMAGE_ENCODER = clip.CLIPVision(8, 16, 1, 2, patch_size=8, image_size=16, projection_dim=6)


@pytest.fixture(scope='module')
def frozen():
  shapes = frozen_lib.abstract({'vae': make(1).vae, 'image_encoder': IMAGE_ENCODER})
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape).astype('f4'), shapes)


def random_video(batch_size, num_frames):
  return np.random.default_rng(1).integers(0, 256, (batch_size, num_frames, 8, 12, 3), np.uint8)


def test_frames_are_encoded_and_decoded_alike_in_chunks_of_any_size(frozen):
  video = random_video(2, 5)
  keys_B = jax.random.split(jax.random.key(0), 2)

  def there_and_back(module):
    def run(frozen, video, keys_B):
      latents = module.encode_video(frozen, video, keys_B)
      return latents, module.decode_video(frozen, latents)

    return jax.jit(run, compiler_options=FAST_COMPILE)(frozen, video, keys_B)

  (latents, decoded), (chunked_latents, chunked_decoded) = (
    there_and_back(make(frames_per_chunk)) for frames_per_chunk in (5, 2)
  )
  np.testing.assert_allclose(chunked_latents, latents, atol=1e-5 * np.abs(latents).max())
  assert np.ptp(decoded) > 50
  np.testing.assert_allclose(chunked_decoded.astype(int), decoded.astype(int), atol=1)  # Rounded.


def test_latents_are_the_posteriors_draw_in_units_of_the_scaling_factor(frozen):
  video = random_video(2, 2)
  module = make(2)
  keys_B = jax.random.split(jax.random.key(0), 2)
  pixels = video.reshape(4, 8, 12, 3).astype(np.float32) / 127.5 - 1
  mean, logvar = module.vae.apply({'params': frozen['vae']}, pixels, method='encode')
  expected = 0.5 * np.asarray(mean).reshape(2, 2, 8, 12, 4)
  np.testing.assert_allclose(module.encode_video(frozen, video), expected, atol=1e-5)
  drawn = module.encode_video(frozen, video, keys_B) - expected
  deviation = 0.5 * np.exp(0.5 * np.asarray(logvar)).reshape(expected.shape)
  assert np.std(drawn / deviation) == pytest.approx(1, abs=0.15)
  assert not np.allclose(drawn[:, 0] / deviation[:, 0], drawn[:, 1] / deviation[:, 1])


def test_the_clip_image_is_normalised_as_transformers_does(frozen):
  transformers = pytest.importorskip('transformers')
  # The release's feature_extractor, which its pipeline only normalises by.
  processor = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False)
  pixels = np.random.default_rng(3).integers(0, 256, (2, 16, 16, 3), np.uint8)
  processed = processor(list(pixels), return_tensors='np').pixel_values.transpose(0, 2, 3, 1)
  parts = None, make(1), {'image_encoder': IMAGE_ENCODER}
  ours = signals.ImageEmbedding(*parts).encode(frozen, {'clip_image': pixels})
  expected = IMAGE_ENCODER.apply({'params': frozen['image_encoder']}, processed)
  np.testing.assert_allclose(ours, expected, atol=1e-5)
