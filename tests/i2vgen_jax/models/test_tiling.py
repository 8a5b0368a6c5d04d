"""Tiles and their blending."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import decode
from data_pipelines import demo_corpus
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import tiling
from i2vgen_jax.parallel import mesh as mesh_lib
from tests import tiny


def enlarge(x_BHWC):
  return 2 * x_BHWC.repeat(3, 1).repeat(3, 2)


@pytest.mark.parametrize('size', [(8, 8), (9, 16), (23, 40), (8, 31)])
def test_tiles_of_a_pointwise_function_are_the_whole(size):
  x = np.random.default_rng(0).standard_normal((2, *size, 4), np.float32)
  tiled = tiling.apply_in_tiles(enlarge, x, tile=8, overlap=3, scale=3)
  np.testing.assert_allclose(tiled, enlarge(x), rtol=1e-5)


def test_seams_are_blended():
  """Tiles that disagree by a constant give a ramp, no step."""
  corner = lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape)  # noqa: E731
  x = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[None, None, :, None], (1, 8, 64, 1))
  tiled = np.asarray(tiling.apply_in_tiles(corner, x, tile=24, overlap=12, scale=1))
  step = (64 - 24) / 3 / 63
  assert np.abs(np.diff(tiled[0, 0, :, 0])).max() < 1.5 * step / 12


@pytest.mark.slow
def test_a_tiled_decode_is_close_to_the_whole_and_asks_less_memory():
  """The demo's VAE. Its norms, which look at a whole frame, look at a quarter of it in a tile: no
  tiling is exact."""
  config = tiny.get_config('unused')
  config.vae.update(frames_per_chunk=1, tile=16, tile_overlap=8)
  tiled = session_lib.build(config).autoencoder
  config.vae.tile = 0
  built = session_lib.build(config)
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  frozen = built.on(mesh).load_frozen().frozen
  attributes = demo_corpus.attributes_of(3)
  frames, *_ = demo_corpus.render_video(np.random.default_rng(0), attributes, size=256)
  video = np.asarray(frames)[None, :1]
  latents = jax.jit(built.autoencoder.encode_video)(frozen, video)
  whole, parts = (
    jax.jit(codec.decode_video).lower(frozen, latents).compile()
    for codec in (built.autoencoder, tiled)
  )
  error = np.asarray(whole(frozen, latents), np.float64) - parts(frozen, latents)
  assert (
    10 * np.log10(255**2 / np.mean(error**2)) > 30
  )  # 32.6 seen; the VAE itself restores this frame to 25.
  memory = [code.memory_analysis().temp_size_in_bytes for code in (whole, parts)]
  assert memory[1] < 0.6 * memory[0]


def test_an_impossible_overlap_is_refused():
  config = tiny.get_config('unused')
  config.vae.update(tile=16, tile_overlap=9)
  with pytest.raises(ValueError, match='vae.tile_overlap=9'):
    session_lib.build(config)


@pytest.mark.slow
@pytest.mark.parametrize('tile', [0, 64])
def test_a_decode_of_1280x720_asks_little_more_than_the_frame_it_decodes(tile):
  """Stable Diffusion's VAE, as XLA lays out its memory."""
  video, frame = (decode.peak_bytes(1280, 720, frames, 1, tile) for frames in (16, 1))
  assert 1e8 < frame <= video < 1.2 * frame
