"""Training from a cache of latents and embeddings is training from the media, to rounding."""

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import __main__ as commands
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import stream
from i2vgen_jax import cache, precompute
from i2vgen_jax import components as components_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.training import data
from i2vgen_jax.training import step as step_lib
from tests import tiny


@pytest.fixture(scope='module')
def run(demo_corpus, tmp_path_factory):
  """(config, components, mesh, frozen, its cache in float32)."""
  config = tiny.get_config(demo_corpus, images=True)
  config.data.buckets.videos.weight = 9.0
  built = components_lib.build(config)
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  frozen = components_lib.load_frozen(config, built, mesh)
  output = str(tmp_path_factory.mktemp('cache') / 'all')
  # The demo's own rate, and all of its frames: any window that the stream draws is there.
  made = precompute.precompute(config, output, fps=16.0, dtype='float32')
  assert made['num_examples'] == 48 + 31  # One image is held out.
  return config, built, mesh, frozen, output


def open_stream(config, built, mesh, directory):
  config = config.copy_and_resolve_references()
  config.data.update(cache=directory, sandbox=False)
  return data.make_stream(config, built, mesh)


def test_a_step_has_the_same_loss_from_the_cache(run):
  config, built, mesh, frozen, output = run
  media, cached = (open_stream(config, built, mesh, directory) for directory in ('', output))
  assert media.fingerprint != cached.fingerprint
  key = jax.random.key(0)
  keys_B = jax.random.split(key, 8)
  encode = jax.jit(built.encoders.encode_batch)
  batches = {}
  for step in range(4):
    bucket, batch = media.bucket_at(step), cached.batch_at(step)
    assert 'video' not in batch and batch['latent_mean'].shape[1] == bucket.frames
    made = batches[bucket.name] = [
      mesh_lib.place_batch(found, mesh) for found in (media.batch_at(step), batch)
    ]
    expected, ours = (encode(frozen, found, keys_B, keys_B[::-1]) for found in made)
    for value, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)
    others = jax.random.split(jax.random.key(1), 8)  # Of another step: latents are drawn anew.
    assert np.abs(encode(frozen, made[1], others, others)[0] - ours[0]).max() > 1e-3
  assert batches.keys() == {'images', 'videos'}
  options = dict(config.loss) | dict(condition_dropout=dict(config.condition_dropout))
  loss = step_lib.make_loss(built.unet, built.encoders, built.schedule, **options)
  params = components_lib.jit_once(built.unet.init)(key, *built.smallest_unet_zeros())['params']
  params = jax.tree.map(lambda leaf: leaf + 0.02, params)  # No layer is zero: all conditions count.
  expected, ours = (
    float(jax.jit(loss)(params, frozen, batch, jax.random.key_data(key), 3))
    for batch in batches['videos']
  )
  assert ours == pytest.approx(expected, rel=2e-5) and ours > 0.1


@pytest.mark.slow
def test_windows_start_on_the_grid_and_stay_within_the_frames_that_are_kept(run, tmp_path):
  config, built, mesh, *_, whole = run
  config = config.copy_and_resolve_references()
  precompute.precompute(config, str(tmp_path / 'short'), fps=8.0, max_frames=4, dtype='float16')
  short = open_stream(config, built, mesh, str(tmp_path / 'short'))
  full = open_stream(config, built, mesh, whole)
  step = next(step for step in range(9) if short.bucket_at(step).name == 'videos')
  batch = short.batch_at(step)
  assert batch['latent_mean'].dtype == np.float16
  for example, mean in zip(short.examples_at(step), batch['latent_mean'], strict=True):
    first = {found['key']: found for found in full.examples_at(step)}[example['key']]['times'][0]
    assert example['times'][0] <= first
    record = full._decoder._records.read(
      str(cache_lib.folder(whole, 'videos', 32, 32) / example['shard'].rpartition('/')[2]),
      example['record'],
    )
    every = np.frombuffer(record['latent_mean'], np.float32).reshape(-1, *mean.shape[1:])
    np.testing.assert_allclose(mean, every[:8:2], rtol=1e-3, atol=1e-3)


def test_a_cache_of_another_vae_or_of_other_data_is_refused(run, tmp_path):
  config, built, mesh, frozen, output = run
  config = config.copy_and_resolve_references()
  config.data.cache = output
  cache.check(config, frozen)
  leaf = frozen['vae']['encoder']['conv_in']['bias']
  changed = jax.tree.map(lambda x: x, frozen)
  changed['vae']['encoder']['conv_in']['bias'] = leaf.at[0].multiply(1 + 2.0**-23)
  with pytest.raises(ValueError, match='was made by other networks.*vae: .*precompute again'):
    cache.check(config, changed)
  changed = frozen | {'vae': frozen['vae'] | {'decoder': None}}
  cache.check(config, changed)  # It encodes no other way.
  config.image_encoder.model.projection_dim = 32
  with pytest.raises(ValueError, match='image_encoder: '):
    cache.check(config, frozen)
  videos = stream.from_config
  for change, message in (
    (dict(directories=dict(videos=config.data.directories.videos)), 'is of the corpora'),
    (dict(cache=str(tmp_path)), 'holds no cache'),
  ):
    plain = dict(config.to_dict(), data=config.data.to_dict() | change)
    plain['data']['buckets'].pop('images', None)
    with pytest.raises(ValueError, match=message):
      videos(plain, built.tokenize)
  for name, value, message in (
    ('height', 64, r'has no videos of 32x64'),
    ('fps', 5.0, 'does not divide'),
    ('frames', 80, 'spans 9.88 s'),
  ):
    other = config.copy_and_resolve_references()
    other.data.buckets.videos[name] = value
    with pytest.raises(ValueError, match=message):
      data.make_stream(other, built, mesh)


def test_precomputing_again_does_nothing_and_other_options_are_refused(run):
  config, *_, output = run
  before = cache_lib.read_manifest(output)
  assert precompute.precompute(config, output, fps=16.0, dtype='float32') == before
  with pytest.raises(ValueError, match='holds another cache: dtype: float32 there, float16 here'):
    precompute.precompute(config, output, fps=16.0)


def test_tfds_reads_the_cache(run):
  *_, output = run
  builder = tfds.builder_from_directory(cache_lib.folder(output, 'videos', 32, 32))
  example = builder.as_data_source('train')[0]
  assert example['latent_mean'].shape == example['latent_logvar'].shape
  assert example['key'] and example['text'].shape == (16, 64)


def test_data_pipelines_lists_the_command(capsys):
  with pytest.raises(SystemExit):
    commands.main(['--help'])
  assert 'precompute' in capsys.readouterr().out
