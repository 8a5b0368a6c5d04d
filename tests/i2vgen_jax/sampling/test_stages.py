"""The refinement stage from base weights, and both stages in one command."""

import dataclasses

import av
import jax
import ml_collections
import numpy as np
import PIL.Image
import pytest

from configs import base, demo, refine_demo
from data_pipelines.corpus import buckets
from i2vgen_jax import session as session_lib
from i2vgen_jax import train
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import generate, given_video, lists, stage_flags, video_file
from i2vgen_jax.sampling import stages as stages_lib
from i2vgen_jax.stored import run_config, trained
from i2vgen_jax.training import warm_start
from tests import tiny


def tiny_refinement(corpus, base):
  """configs/refine_demo.py at twice the tiny size, of the tiny model."""
  config, small = refine_demo.get_config(f'corpus={corpus}'), tiny.get_config(corpus, num_steps=1)
  for name in ('block_channels', 'attention_levels', 'head_dim', 'norm_groups'):
    config.unet[name] = small.unet[name]
  config.unet.temporal_in_heads = small.unet.temporal_in_heads
  config.data.buckets.videos.update(frames=4, height=64, width=64, batch_size=8)
  config.refine.update(height=32, width=32)
  for block in ('train', 'optimizer', 'checkpoint', 'sharding'):
    config[block] = small[block]
  config.optimizer.warmup_steps = 0
  config.sample.num_steps = 2
  config.start = str(base)
  return config


@pytest.fixture(scope='module')
def runs(demo_corpus, finished_run, tmp_path_factory):
  """(base, refinement): workdirs; the second of one step with a learning rate of zero."""
  config = tiny_refinement(demo_corpus, finished_run)
  config.optimizer.peak_learning_rate = 0.0
  workdir = tmp_path_factory.mktemp('refine')
  assert train.train(config, workdir) == 0
  return finished_run, workdir


@pytest.fixture(scope='module')
def stages(runs):
  """Both stages as `sample` has them: each at rest while the other works, on several devices."""
  return [stages_lib.load(workdir, shares=True, rests=True) for workdir in runs]


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'picture.png'
  PIL.Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save(path)
  return path


def read_frames(path):
  with av.open(str(path)) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  return np.stack(frames).astype(float)


def test_a_refinement_starts_from_the_base_weights_that_it_has_a_place_for(runs):
  base, refinement = (
    trained.load_params(workdir, session_lib.open_run(workdir).abstract_params(), weights)[0]
    for workdir, weights in zip(runs, ('ema', 'raw'), strict=True)
  )
  assert set(base) - set(refinement) == {
    'image_latent_tokens', 'image_tokens', 'image_latents', 'fps',
  }  # fmt: skip
  kernel = base['conv_in'].pop('kernel')
  np.testing.assert_array_equal(refinement['conv_in'].pop('kernel'), kernel[:, :, :4])
  for name, params in refinement.items():
    jax.tree.map(np.testing.assert_array_equal, params, base[name])


def test_a_refinement_may_have_an_autoencoder_of_its_own(finished_run, demo_corpus):
  config = tiny_refinement(demo_corpus, finished_run)
  config.vae.model.block_channels = (8, 16, 32, 64)
  with pytest.raises(ValueError, match='of another model.*vae.model.block_channels: '):
    warm_start.check(config)  # With the weights of the base's.
  config.vae.weights = 'own/vae.safetensors'
  warm_start.check(config)
  config.unet.head_dim = 16
  with pytest.raises(ValueError, match='unet.head_dim: 8 -> 16'):
    warm_start.check(config)


def test_a_list_runs_through_its_bad_lines_and_goes_on_where_it_was(stages, picture, tmp_path):
  listed, folder = tmp_path / 'list.txt', tmp_path / 'out'
  (tmp_path / 'half.png').write_bytes(picture.read_bytes()[:-30])
  bad = ['no.png|||a square', 'picture.png', 'half.png|||a cat', f'{"long " * 99}|||a.png', '.|||b']
  listed.write_text('# comment\n\npicture.png|||a red circle\n' + '\n'.join(bad) + '\n')
  with pytest.raises(ValueError) as error:
    lists.make(stages, listed, folder, seed=1)
  message = str(error.value)
  assert '5 of 6 lines' in message and 'line 4: ' in message and 'no.png' in message
  assert 'line 6: image' in message and 'half.png cannot be read' in message
  assert 'line 7: ' in message and 'too long' in message and 'line 8: ' in message
  assert "line 5: 'picture.png' is not image|||caption" in message
  (video,) = folder.iterdir()
  assert video.name == '0003_picture.mp4'
  listed_FHWC = read_frames(video)
  assert listed_FHWC.shape == (4, 64, 64, 3)

  def alone(seed):
    stages_lib.make_video(stages, PIL.Image.open(picture), 'a red circle', seed, tmp_path / 'a.mp4')
    return read_frames(tmp_path / 'a.mp4')

  # Not byte for byte: the order of XLA's sums may depend on the load of a machine.
  assert np.abs(alone(1) - listed_FHWC).mean() < 1 < np.abs(alone(2) - listed_FHWC).mean()
  video.write_bytes(b'kept')
  listed.write_text('picture.png|||a red circle\n' * 3)
  lists.make(stages, listed, folder, seed=1, part=1, num_parts=2)
  names = sorted(path.name for path in folder.iterdir())
  assert names == ['0002_picture.mp4', '0003_picture.mp4'] and video.read_bytes() == b'kept'


def test_a_refinement_follows_the_video_and_the_seed(stages):
  image = PIL.Image.new('RGB', (64, 64), 'gray')
  dark, bright = (np.full((4, 32, 32, 3), value, np.uint8) for value in (30, 220))
  run = lambda video, seed: stages[1].run(image, 'a circle', seed, video).astype(float)  # noqa: E731
  assert np.abs(run(dark, 0) - run(dark, 0)).mean() < 1
  assert run(bright, 0).mean() > run(dark, 0).mean()
  assert np.abs(run(dark, 0) - run(dark, 1)).mean() > 1


def test_weights_at_rest_are_on_no_device_and_those_at_work_make_the_same(stages):
  stage = stages[0]
  assert stage.session.mesh.shape['context'] == 4  # Of eight devices: four frames, 16 latents.
  weights = stage.params, stage.session.frozen
  assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(weights))
  params, frozen = jax.device_put(weights, mesh_lib.replicated(stage.session.mesh))
  session = dataclasses.replace(stage.session, frozen=frozen)
  awake = dataclasses.replace(stage, params=params, session=session, rests=False)
  image = PIL.Image.new('RGB', (32, 32), 'gray')
  one, other = (each.run(image, 'a circle', 0).astype(float) for each in (stage, awake))
  assert np.abs(one - other).mean() < 1


@pytest.mark.parametrize(
  'frames, size, devices, expected',
  [(16, (256, 448), 8, 4), (16, (720, 1280), 8, 8), (16, (256, 448), 1, 1), (1, (256, 448), 8, 1)],
)
def test_as_many_devices_share_a_video_as_divide_its_frames_and_all_levels(
  frames, size, devices, expected
):
  mesh = mesh_lib.make_mesh(dict(data=-1, fsdp=1, tensor=1), jax.devices()[:devices])
  session = session_lib.build(base.get_config(), reads_captions=False).on(mesh)
  bucket = buckets.Bucket('one', frames, *size, fps=8, batch_size=1)
  shared = stages_lib.share(session, bucket).mesh
  assert shared.shape['context'] == shared.size == expected


def test_a_network_of_bfloat16_is_held_in_half_of_the_memory():
  params = dict(layer=dict(kernel=np.ones((2, 3), np.float32), bias=np.ones(3, np.float32)))
  for config, kernel in ((base.get_config(), 'bfloat16'), (demo.get_config(), 'float32')):
    held = session_lib.build(config, reads_captions=False).held(params)['layer']
    assert (held['kernel'].dtype, held['bias'].dtype) == (kernel, 'float32')


def test_any_video_is_refined_piece_by_piece(stages, tmp_path):
  """Ten frames in pieces of four, at the stage's size and the video's rate."""
  video = np.repeat(np.array([30] * 5 + [220] * 5, np.uint8), 48 * 64 * 3).reshape(10, 48, 64, 3)
  video_file.write(tmp_path / 'film.mp4', video, 12)
  source = given_video.read(tmp_path / 'film.mp4')
  given_video.refine(stages[1], source, 'a circle', 0, tmp_path / 'out.mp4')
  made = read_frames(tmp_path / 'out.mp4')
  assert made.shape == (10, 64, 64, 3)
  assert made[8:].mean() > made[:4].mean()
  with av.open(str(tmp_path / 'out.mp4')) as container:
    assert float(container.streams.video[0].average_rate) == 12


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('guidance_scale', float('nan'), 'guidance_scale=nan must lie in'),
    ('guidance_scale', float('inf'), 'guidance_scale=inf must lie in'),
    ('guidance_scale', -5.0, 'guidance_scale=-5.0 must lie in'),
    ('guidance_rescale', 5.0, 'guidance_rescale=5.0 must lie in'),
    ('eta', 3.0, 'eta=3.0 must lie in'),
  ],
)
def test_settings_outside_of_their_range_are_refused(name, value, message, runs):
  with pytest.raises(ValueError, match=message):
    generate.settings(run_config.read(runs[0]), **{name: value})


def test_a_folder_without_a_corpus_has_the_shape_of_its_samples(runs):
  config = ml_collections.ConfigDict(run_config.read(runs[0]))
  config.data.directories = {}
  session = session_lib.build(config, runs[0])
  assert session.sample_bucket().frames == 4
  with pytest.raises(ValueError, match='names no corpus'):
    session.buckets()
  config.data.buckets = {}
  with pytest.raises(ValueError, match='give data.buckets'):
    session_lib.build(config, runs[0]).sample_bucket()


def test_stages_in_the_wrong_place_are_refused(runs):
  first, refinement = runs
  stage_flags.check_stages(refinement, of_video=True)
  with pytest.raises(ValueError, match='is no refinement stage .* and --video is refined'):
    stage_flags.check_stages(first, of_video=True)
  assert stage_flags.read_captions(first, None) and stage_flags.read_captions(refinement)
  stage_flags.check_stages(first, refinement)
  with pytest.raises(ValueError, match='--workdir=.* is a refinement stage'):
    stage_flags.check_stages(refinement, None)
  with pytest.raises(ValueError, match='--refine_workdir=.* is no refinement stage'):
    stage_flags.check_stages(first, first)
  with pytest.raises(ValueError, match='nowhere holds no config.json'):
    stage_flags.check_stages(first, 'nowhere')
  with pytest.raises(ValueError, match='levels=0 must be at least 1'):
    generate.settings(run_config.read(refinement), levels=0)


def test_a_start_without_all_that_is_needed_names_it():
  mesh = mesh_lib.make_mesh(dict(data=-1, fsdp=1, tensor=1))
  leaf = lambda *shape: jax.ShapeDtypeStruct(  # noqa: E731
    shape, np.float32, sharding=mesh_lib.replicated(mesh)
  )
  wanted = {'conv_in': {'kernel': leaf(3, 3, 4, 8)}, 'fps': {'bias': leaf(2)}}
  found = {'conv_in': {'kernel': np.ones((3, 3, 8, 6))}, 'extra': {'bias': np.ones(2)}}
  with pytest.raises(ValueError) as error:
    warm_start.restrict(found, wanted, 'there')
  assert 'missing fps/bias' in str(error.value)
  assert 'conv_in/kernel: [3, 3, 8, 6], needed is [3, 3, 4, 8]' in str(error.value)


def test_levels_beyond_those_trained_are_refused():
  config = ml_collections.ConfigDict(refine_demo.get_config())
  config.loss.timestep_range = (0, 500)
  with pytest.raises(ValueError, match='refine.levels=600 must lie within'):
    session_lib.build(config)


def test_a_run_keeps_the_settings_of_its_refinement(runs):
  config = run_config.read(runs[1])
  assert config.refine.levels == 600 and list(config.loss.timestep_range) == [0, 600]


def stage_of_aspects(refines=False, **changes):
  """A stage of the tiny model at two aspects, which makes black videos of the noise's size."""
  config = tiny.get_config('none')
  config.data.buckets.videos.update(height=128, width=192, batch_size=1)
  config.data.aspects = ((128, 192), (192, 128))
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  factor = session.autoencoder.downsampling

  def black(weights, inputs, noise_BFHWC, *settings):
    batch, frames, height, width = noise_BFHWC.shape[:4]
    return np.zeros((batch, frames, factor * height, factor * width, 3), np.uint8)

  bucket = dataclasses.replace(session.sample_bucket(), **changes)
  settings = dict(levels=600 if refines else 0)
  return stages_lib.Stage(session, None, bucket, settings, None, '', stepwise=black)


@pytest.mark.parametrize('size, made', [((300, 500), (128, 192)), ((50, 40), (192, 128))])
def test_a_picture_is_animated_at_the_aspect_that_crops_it_least(size, made):
  base, refinement = stage_of_aspects(), stage_of_aspects(refines=True)
  assert base.bucket.name == 'videos_192x128'  # The bucket's own, of held-out clips.
  video_FHWC = base.run(PIL.Image.new('RGB', size[::-1]), 'a circle', seed=0)
  assert video_FHWC.shape == (4, *made, 3)
  # A refinement keeps the aspect of what it is given, whatever that of the picture.
  other = np.zeros((4, 96, 64, 3), np.uint8)
  assert refinement.run(PIL.Image.new('RGB', size[::-1]), 'a', 0, other).shape[1:3] == (192, 128)


def test_a_size_that_was_asked_for_is_no_matter_of_the_picture_but_what_is_cut_away_is_said(caplog):
  told = stage_of_aspects(framing=None, height=64, width=64)
  assert told.run(PIL.Image.new('RGB', (60, 64)), 'a', 0).shape == (4, 64, 64, 3)
  assert 'cut away' not in caplog.text
  assert told.run(PIL.Image.new('RGB', (40, 90)), 'a', 0).shape == (4, 64, 64, 3)
  assert 'The picture, 40x90, has another shape than the video, 64x64: 56 % of it' in caplog.text
