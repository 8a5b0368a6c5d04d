"""Sampling: the same on any mesh, at the refinement's full size, and of broken pictures."""

import dataclasses
import math
import types

import jax
import numpy as np
import PIL.Image
import pytest

from configs import refine
from data_pipelines.corpus import buckets
from data_pipelines.media import decode, pictures
from data_pipelines.stream import fields
from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.sampling import stages
from tests import tiny
from tests.i2vgen_jax.test_export import random_params, small_config
from tests.media_kinds import files


def drawn(config, seed=1):
  """(session, parameters of the U-Net, frozen) of random values, none of them zero."""
  built = session_lib.build(config)
  key = jax.random.key(0)
  abstract = jax.eval_shape(built.unet.init, key, *built.smallest_unet_inputs())['params']
  frozen = random_params(frozen_lib.abstract(built.networks), seed=seed + 1)
  return built, random_params(abstract, seed), frozen


@pytest.mark.slow
def test_the_same_seed_gives_the_same_videos_on_any_mesh():
  """Of a sampler that draws noise at every step; only the order of sums may differ."""
  config = tiny.get_config('unused')
  built, params, frozen = drawn(config)
  images = [PIL.Image.new('RGB', (40, 40), color) for color in ('red', 'green', 'blue', 'gray') * 2]
  signals = built.of_request(base.Request(images, ['a circle'] * 8, 32, 32, 8.0))
  noise = np.asarray(generate_lib.start_noise(built, 3, 8, (4, 32, 32)))
  found = []
  for sizes in ((1, 1, 1, 1), (8, 1, 1, 1), (2, 2, 1, 2), (2, 1, 4, 1)):
    axes = dict(zip(('data', 'fsdp', 'context', 'tensor'), sizes, strict=True))
    mesh = mesh_lib.make_mesh(axes, jax.devices()[: math.prod(sizes)])
    generate = generate_lib.make_generate(
      built.on(mesh), prediction_type='v', num_steps=3, guidance_scale=2.0, sampler='dpmpp_2m_sde',
      seed=5,
    )  # fmt: skip
    placed = [jax.device_put(tree, sharding.shard_tree(tree, mesh, 2)) for tree in (params, frozen)]
    batch = mesh_lib.place_batch(dict(signals=signals, noise=noise), mesh)
    inputs = generate_lib.Inputs(batch['signals'], built.negative('bad'))
    latents, videos = generate(*placed, inputs, batch['noise'])
    found.append((np.asarray(latents), np.asarray(videos, np.float32)))
  (latents, videos), *others = found
  assert np.abs(latents[0] - latents[1]).max() > 0.1  # Rows differ.
  for other_latents, other_videos in others:
    np.testing.assert_allclose(other_latents, latents, atol=2e-4 * np.abs(latents).max())
    assert np.abs(other_videos - videos).max() <= 1


@pytest.mark.slow
def test_a_refinement_of_1280x720_runs_through_its_odd_sizes():
  """Latent heights 90 -> 45 -> 23 -> 12, and the decode in tiles; of a narrow model."""
  config, small = refine.get_config(), small_config()
  for name in ('dtype', 'tokenizer', 'text_encoder', 'image_encoder'):
    config[name] = small[name]
  config.unet.update(
    block_channels=(16, 16, 32, 32), attention_levels=(False, True, True, False),
    layers_per_block=1, head_dim=16, norm_groups=8, context_dim=16, remat='none',
  )  # fmt: skip
  config.vae.model.update(block_channels=(4, 4, 8, 8), layers_per_block=1, norm_groups=2)
  config.vae.update(tile=48, tile_overlap=16, frames_per_chunk=1)
  built, params, frozen = drawn(config)
  settings = generate_lib.settings(config, sampler='ddim', num_steps=1)
  mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), jax.devices()[:1])
  built = dataclasses.replace(built, frozen=frozen).on(mesh)
  stage = stages.Stage(
    session=built, params=params, settings=settings, negative_prompt='bad',
    bucket=buckets.Bucket('large', 2, 720, 1280, 8.0, batch_size=1),
    generate=generate_lib.make_generate(built, **settings),
  )  # fmt: skip
  image = PIL.Image.new('RGB', (640, 360), 'gray')
  small_FHWC = np.random.default_rng(0).integers(0, 256, (2, 256, 448, 3), np.uint8)
  refined = stage.run(image, 'a circle', 0, small_FHWC)
  assert refined.shape == (2, 720, 1280, 3) and refined.dtype == np.uint8
  assert refined.std() > 5
  assert (refined[0] != refined[1]).any()


def test_every_signal_gets_of_a_file_what_training_decodes_of_it(tmp_path):
  """Of a JPEG so large that it is decoded at half its size, and of a PNG on its side."""
  config = tiny.get_config('unused')
  config.unet.conditioners = (*config.unet.conditioners, dict(kind='last_frame'))
  session = session_lib.build(config)
  pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
  first, last = tmp_path / 'first.jpg', tmp_path / 'last.png'
  PIL.Image.fromarray(pixels).save(first, quality=90)
  PIL.Image.fromarray(pixels).save(last, exif=files.exif(6))

  def request(image):
    return base.Request([image], ['a'], 32, 48, 8.0, {'last_image': str(last)})

  inputs = session.of_request(request(pictures.read_image(first)))
  trained, trained_last = (decoded(session, path, 32, 48) for path in (first, last))
  image = inputs['image_latents']['image']
  np.testing.assert_array_equal(image, trained['video'])
  np.testing.assert_array_equal(inputs['image_embedding']['clip_image'][0], trained['clip_image'])
  last_image = inputs['last_frame_latents']['last_image']
  np.testing.assert_array_equal(last_image, trained_last['video'])
  whole = session.of_request(request(pictures.open_image(first)))['image_latents']['image']
  assert (whole != image).any()


def decoded(session, path, height, width):
  """The fields of a corpus' picture, as a stream decodes them."""
  bucket = buckets.Bucket('', 1, height, width, fps=1.0, batch_size=1, media='image')
  own = fields.pixel_fields(session.fields())
  arrays = {field.name: np.empty(field.shape(bucket), np.uint8) for field in own}
  views = [
    decode.View(arrays[field.name].reshape(1, *field.shape(bucket)[-3:]), (0,), field.is_square)
    for field in own
  ]
  decode.decode_image_into(views, path.read_bytes())
  return arrays


@pytest.mark.parametrize('cut', [8, 40, -20])
def test_broken_pictures_are_named_in_one_line(cut, tmp_path):
  path = tmp_path / 'picture.png'
  PIL.Image.fromarray(np.arange(7500, dtype=np.uint8).reshape(50, 50, 3)).save(path)
  assert pictures.open_image(path).size == (50, 50)
  path.write_bytes(path.read_bytes()[:cut] + b'\0' * 20)
  with pytest.raises(ValueError, match='picture.png cannot be read'):
    pictures.open_image(path)


@pytest.mark.parametrize('size, nearest', [((100, 77), '80x104'), ((3, 64), '64x8')])
def test_a_size_that_does_not_fit_names_the_nearest(size, nearest):
  of_vae = types.SimpleNamespace(autoencoder=types.SimpleNamespace(downsampling=8))
  with pytest.raises(ValueError, match=f'multiples of 8 pixels, .*: {nearest} is the nearest'):
    session_lib.Session.check_size(of_vae, 1, *size)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='file/videos is not writable'):
    stages.make_folder(tmp_path / 'file' / 'videos')
