"""Training from a cache of latents and embeddings is training from the media, to rounding."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import __main__ as commands
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import cache as cache_lib
from data_pipelines.stream import stream
from i2vgen_jax import precompute
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import xla_profiles
from i2vgen_jax.training import cache, data, objective
from tests import corpora, tiny


@pytest.fixture(scope='module')
def run(demo_corpus, tmp_path_factory):
  """(session, its cache in float32)."""
  config = tiny.get_config(demo_corpus, images=True)
  config.data.buckets.videos.weight = 9.0
  mesh = mesh_lib.make_mesh({'data': -1, 'fsdp': 1, 'tensor': 1})
  session = session_lib.build(config).on(mesh).load_frozen()
  output = str(tmp_path_factory.mktemp('cache') / 'all')
  # The demo's own rate, and all of its frames: any window that the stream draws is there.
  made = precompute.precompute(config, output, fps=16.0, dtype='float32')
  assert made['num_examples'] == 48 + 31  # One image is held out.
  return session, output


def open_stream(session, directory):
  config = session.config.copy_and_resolve_references()
  config.data.update(cache=directory, sandbox=False)
  return data.make_stream(dataclasses.replace(session, config=config))


def test_a_step_has_the_same_loss_from_the_cache(run):
  session, output = run
  media, cached = (open_stream(session, directory) for directory in ('', output))
  assert media.fingerprint != cached.fingerprint
  key = jax.random.key(0)
  keys_B = jax.random.split(key, 8)
  encode = jax.jit(session.encode)
  batches = {}
  for step in range(4):
    bucket, batch = media.bucket_at(step), cached.batch_at(step)
    assert 'video' not in batch and batch['latent_mean'].shape[1] == bucket.frames
    made = batches[bucket.name] = [
      mesh_lib.place_batch(found, session.mesh) for found in (media.batch_at(step), batch)
    ]
    expected, ours = (encode(session.frozen, found, keys_B, keys_B[::-1]) for found in made)
    for value, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)
    others = jax.random.split(jax.random.key(1), 8)  # Of another step: latents are drawn anew.
    assert np.abs(encode(session.frozen, made[1], others, others)[0] - ours[0]).max() > 1e-3
  assert batches.keys() == {'images', 'videos'}
  loss = objective.make_loss(session, session.dropout_rates())
  init = xla_profiles.jit_once(session.unet.init)
  params = init(key, *session.smallest_unet_zeros())['params']
  params = jax.tree.map(lambda leaf: leaf + 0.02, params)  # No layer is zero: all conditions count.
  expected, ours = (
    float(jax.jit(loss)(params, session.frozen, batch, jax.random.key_data(key), 3)[0])
    for batch in batches['videos']
  )
  assert ours == pytest.approx(expected, rel=2e-5) and ours > 0.1


@pytest.mark.slow
def test_windows_start_on_the_grid_and_stay_within_the_frames_that_are_kept(run, tmp_path):
  session, whole = run
  config = session.config.copy_and_resolve_references()
  precompute.precompute(config, str(tmp_path / 'short'), fps=8.0, max_frames=4, dtype='float16')
  short = open_stream(session, str(tmp_path / 'short'))
  full = open_stream(session, whole)
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
  session, output = run
  frozen, config = session.frozen, session.config.copy_and_resolve_references()
  config.data.cache = output

  def check(frozen):
    cache.check(dataclasses.replace(session, config=config, frozen=frozen))

  check(frozen)
  leaf = frozen['vae']['encoder']['conv_in']['bias']
  changed = jax.tree.map(lambda x: x, frozen)
  changed['vae']['encoder']['conv_in']['bias'] = leaf.at[0].multiply(1 + 2.0**-23)
  with pytest.raises(ValueError, match='was made by other networks.*vae: .*precompute again'):
    check(changed)
  check(frozen | {'vae': frozen['vae'] | {'decoder': None}})  # It encodes no other way.
  config.image_encoder.model.projection_dim = 32
  with pytest.raises(ValueError, match='image_encoder: '):
    check(frozen)
  videos = stream.from_config
  for change, message in (
    (dict(directories=dict(videos=config.data.directories.videos)), 'is of the corpora'),
    (dict(cache=str(tmp_path)), 'holds no cache'),
  ):
    plain = dict(config.to_dict(), data=config.data.to_dict() | change)
    plain['data']['buckets'].pop('images', None)
    with pytest.raises(ValueError, match=message):
      videos(plain, session.fields(), kept=session.kept())
  for name, value, message in (
    ('height', 64, r'has no videos of 32x64'),
    ('fps', 5.0, 'does not divide'),
    ('frames', 80, 'spans 9.88 s'),
  ):
    other = config.copy_and_resolve_references()
    other.data.buckets.videos[name] = value
    with pytest.raises(ValueError, match=message):
      data.make_stream(dataclasses.replace(session, config=other))


def test_precomputing_again_does_nothing_and_other_options_are_refused(run):
  session, output = run
  config = session.config
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


def test_a_cache_holds_each_example_at_its_own_aspect(tmp_path):
  sizes = [('video', 64, 128)] * 2 + [('video', 128, 64)] * 3 + [('video', 16, 256)]
  directory = corpora.ingest_sizes(tmp_path, sizes)
  config = tiny.get_config('none')
  config.data.directories = dict(mine=directory)
  config.data.buckets.videos.update(height=64, width=128, batch_size=8)
  config.data.aspects = ((64, 128), (128, 64))
  assert '6 examples in 2 shards' in precompute.plan(config, tmp_path / 'cache')
  made = precompute.precompute(config, tmp_path / 'cache', dtype='float32')
  assert made['num_examples'] == 5  # None twice, and not what is cropped too much.
  config.data.cache = str(tmp_path / 'cache')
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  cached = data.make_stream(session)
  for step in range(5):
    bucket, batch = cached.bucket_at(step), cached.batch_at(step)
    factor = session.autoencoder.downsampling
    assert batch['latent_mean'].shape[2:4] == (bucket.height // factor, bucket.width // factor)
  assert cached.num_bad == 0 and len({cached.bucket_at(step) for step in range(5)}) == 2
  config.data.max_crop = 0.2
  with pytest.raises(ValueError, match='of the aspects and bounds .*precompute again'):
    data.make_stream(dataclasses.replace(session, config=config))


def test_a_cache_holds_every_shot_of_a_video(tmp_path):
  """Shots stand still: what the stream draws of one is always the same, and of another is not."""
  directory = corpora.ingest_shots(tmp_path, [[16, 16, 20], [24]], fps=8, size=32)
  rules = decide.Rules(min_short_side=32, keep_duplicates=True)
  curate.curate(directory, rules, num_processes=1)
  config = tiny.get_config('none')
  config.data.directories, config.data.index = dict(mine=directory), str(tmp_path / 'index')
  index.index(dict(mine=directory), config.data.index, axes=[])
  made = precompute.precompute(config, tmp_path / 'cache', dtype='float32')
  assert made['num_examples'] == 4
  config.data.cache = str(tmp_path / 'cache')
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  cached, shots = data.make_stream(session), {}
  for step in range(3):
    batch = cached.batch_at(step)
    for example, mean_FHWC in zip(cached.examples_at(step), batch['latent_mean'], strict=True):
      shot = example['key'], example.get('span', 0)
      shots.setdefault(shot, mean_FHWC[0])
      assert np.abs(mean_FHWC - shots[shot]).mean() < 0.2  # Which is what H.264 changes.
  assert cached.num_bad == 0
  assert sorted(shots) == [('0.mp4', 0), ('0.mp4', 1), ('0.mp4', 2), ('1.mp4', 0)]
  apart = [np.abs(a - b).mean() for a, b in itertools.combinations(shots.values(), 2)]
  assert min(apart) > 0.5


def test_what_cannot_be_decoded_is_left_out_and_counted(tmp_path, caplog):
  source, directory = corpora.write_folder(tmp_path / 'in', 4), tmp_path / 'corpus'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  file = next(directory.glob('corpus-train*'))
  media = (source / '001.mp4').read_bytes()
  file.write_bytes(file.read_bytes().replace(media, bytes(len(media))))
  config = tiny.get_config('none')
  config.data.directories = dict(mine=str(directory))
  made = precompute.precompute(config, tmp_path / 'cache', dtype='float32')
  assert made['num_examples'] == 3
  assert '1 could not be decoded; most often: record 1' in caplog.text
