"""What configs/finetune.py chooses follows the corpus, and the model is the start's."""

import json
import math

import jax
import pytest

from configs import base, demo, finetune, refine
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.index import command as index
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.training import optimizer
from tests import corpora

LANDSCAPE, PORTRAIT, SQUARE = (1080, 1920), (1920, 1080), (720, 720)


def clips(number, size=LANDSCAPE, seconds=4.0, fps=25.0):
  return [('video', seconds, fps, *size)] * number


def images(number):
  return [('image', 0.0, 0.0, 512, 512)] * number


@pytest.fixture
def made(tmp_path):
  """(training rows, held-out rows, argument, the start's config) -> the config."""

  def make(train, held_out, more='', started=None):
    start, corpus = tmp_path / 'start', tmp_path / 'corpus'
    start.mkdir(exist_ok=True)
    (start / 'config.json').write_text((started or base.get_config()).to_json())
    corpora.write_sidecars(corpus, dict(train=train, validation=held_out))
    return finetune.get_config(f'start={start},corpus={corpus}{more}')

  return make


@pytest.mark.parametrize(
  'number, steps, batch, rank, averages, looks',
  [
    (6, 400, 4, 8, False, 50),
    (60, 1250, 4, 16, False, 150),
    (600, 1950, 8, 32, False, 250),
    (6000, 3100, 16, 64, True, 400),
  ],
)
def test_steps_batch_and_rank_grow_with_the_corpus(
  made, number, steps, batch, rank, averages, looks
):
  config = made(clips(number), clips(max(1, number // 20)))
  train, bucket = config.train, config.data.buckets.clips
  assert (train.num_steps, bucket.batch_size, config.lora.rank) == (steps, batch, rank)
  config.lora.rank = 4
  assert config.lora.alpha == 4.0  # Follows the rank, unless it is given.
  config.lora.alpha = 3.0
  assert (config.lora.rank, config.lora.alpha) == (4, 3.0)
  assert (train.ema_decay > 0) == averages == train.ema_warmup
  assert (train.first_look, train.eval_every, train.sample_every) == (50, looks, looks)
  assert train.num_eval_examples == min(64, max(1, number // 20))
  assert 1 <= train.num_sample_videos <= 4
  assert config.optimizer.peak_learning_rate == pytest.approx(1e-4)
  assert config.condition_dropout.text == 0.1
  # One clip of the released work is on a device at a time.
  assert train.accumulation == batch and config.unet.remat == 'block'
  assert (bucket.frames, bucket.fps, bucket.height, bucket.width) == (16, 8.0, 256, 448)
  assert not config.data.aspects


def test_the_model_and_its_objective_are_the_starts(made):
  started = demo.get_config()
  config = made(clips(20, (64, 64)), clips(1, (64, 64)), started=started)
  for name in ('dtype', 'unet', 'schedule', 'loss', 'pad_token', 'image_encoder'):
    ours, theirs = (json.loads(tree.to_json())[name] for tree in (config, started))
    for tree in (ours, theirs):
      if isinstance(tree, dict):
        tree.pop('weights', None)
    assert ours == theirs, name
  assert config.vae.weights == config.text_encoder.weights == ''  # The start's own copies.
  assert config.tokenizer == f'{config.start}/tokenizer'
  assert config.unet.remat == 'none' and config.train.accumulation == 1
  assert config.optimizer.peak_learning_rate == pytest.approx(1e-3)  # A tenth of the width.


def test_all_of_the_model_is_trained_slowly_and_in_shards(made):
  config = made(clips(600), clips(3), ',full=1')
  assert config.lora.rank == 0 and config.mesh.fsdp == -1
  assert config.optimizer.peak_learning_rate == pytest.approx(1e-5)


def test_sizes_are_those_of_the_clips_and_samples_have_that_of_the_held_out(made):
  train = clips(6) + clips(3, PORTRAIT) + clips(2, SQUARE)
  config = made(train, clips(1, PORTRAIT))
  sizes = [tuple(size) for size in config.data.aspects]
  assert sizes[0] == (256, 448) and (448, 256) in sizes and (320, 320) not in sizes
  pixels = [height * width for height, width in sizes]
  assert max(pixels) / min(pixels) <= 1.15
  bucket = config.data.buckets.clips
  assert (bucket.height, bucket.width) == (448, 256)
  assert len(buckets_lib.from_config(config)) == len(sizes) <= 4
  assert made(clips(6, PORTRAIT), clips(1)).data.buckets.clips.height == 448


def test_one_odd_clip_of_many_adds_no_size(made):
  assert not made(clips(60) + clips(1, PORTRAIT), clips(3)).data.aspects


def test_a_larger_start_is_trained_at_what_a_device_holds(made):
  started = base.get_config()
  started.data.buckets.f16_at_8.update(height=704, width=1280)
  bucket = made(clips(6), clips(1), started=started).data.buckets.clips
  assert (bucket.height, bucket.width) == (256, 448)
  bucket = made(clips(6), clips(1), ',pixels=901120', started=started).data.buckets.clips
  assert (bucket.height, bucket.width) == (704, 1280)


@pytest.mark.parametrize(
  'seconds, fps, expected', [(4.0, 8.0, (16, 8.0)), (1.0, 30.0, (16, 16.0)), (1.0, 8.0, (8, 8.0))]
)
def test_short_clips_are_taken_faster_or_with_fewer_frames(made, seconds, fps, expected):
  rows = clips(6, seconds=seconds, fps=fps)
  bucket = made(rows, rows[:1]).data.buckets.clips
  assert (bucket.frames, bucket.fps) == expected
  bucket = made(rows + clips(3), rows[:1] + clips(1)).data.buckets.clips  # Most of them are short.
  assert (bucket.frames, bucket.fps) == expected


def test_the_one_held_out_clip_decides_what_it_can_fill(made):
  bucket = made(clips(6), clips(1, seconds=1.0)).data.buckets.clips
  assert (bucket.frames, bucket.fps) == (16, 16.0)


def test_clips_that_are_too_short_do_not_count(made):
  assert made(clips(590) + clips(60, seconds=0.1), clips(9)).train.num_steps == 1950


def test_an_index_takes_the_part_of_the_corpus_that_shows_a_person(tmp_path):
  media = [('video', 64, 64)] * 4 + [('video', 64, 48)] * 3
  corpus = corpora.ingest_sizes(tmp_path, media, num_frames=16)
  where = ["key LIKE '%64x48%'", 'duration > 1']
  index.index(dict(clips=corpus), str(tmp_path / 'index'), where=where)
  manifest = json.loads((tmp_path / 'corpus' / 'manifest.json').read_text())
  manifest['splits']['validation'] = manifest['splits']['train']
  (tmp_path / 'corpus' / 'manifest.json').write_text(json.dumps(manifest))
  (tmp_path / 'start').mkdir()
  (tmp_path / 'start' / 'config.json').write_text(demo.get_config().to_json())
  argument = f'start={tmp_path / "start"},corpus={corpus}'
  whole = finetune.get_config(argument)
  part = finetune.get_config(f'{argument},index={tmp_path / "index"}')
  assert part.data.index == str(tmp_path / 'index')
  # 640 sqrt(N) / 4 steps, in fifties: of seven clips and of three.
  assert (whole.train.num_steps, part.train.num_steps) == (400, 300)


def test_images_join_in(made):
  config = made(clips(6) + images(10), clips(1))
  found = buckets_lib.from_config(config)
  assert [bucket.media for bucket in found] == ['video', 'image']
  assert found[0].weight == 7 * found[1].weight
  assert dict(config.condition_dropout.buckets.images) == dict(image_latents=1.0)  # As the start's.
  assert not made(clips(6), clips(1)).condition_dropout.buckets


@pytest.mark.parametrize('devices', [1, 2, 8, 3])
@pytest.mark.parametrize('number', [6, 600])
def test_batches_divide_over_the_devices(made, devices, number):
  config = made(clips(number), clips(2), f',devices={devices}')
  sizes = mesh_lib.resolve(config.mesh, devices)
  assert math.prod(sizes.values()) == devices
  batch = config.data.buckets.clips.batch_size
  assert batch % (devices * config.train.accumulation) == 0 and batch >= 4
  assert batch // (devices * config.train.accumulation) == 1


@pytest.mark.parametrize('full', [0, 1])
def test_a_part_of_the_layers_learns(made, full):
  size = (64, 64)
  found = {}
  for part in ('', 'spatial', 'temporal'):
    config = made(clips(6, size), clips(1, size), f',full={full},part={part}', demo.get_config())
    with config.unlocked():
      config.tokenizer = f'{demo.DEMO}/tokenizer'
    abstract = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh)).abstract_params()
    trained = jax.tree_util.tree_leaves_with_path(optimizer.trained(config, abstract))
    found[part] = {jax.tree_util.keystr(path) for path, is_trained in trained if is_trained}
  over_frames = {name for name in found[''] if 'temp_' in name or 'transformer_in' in name}
  assert found['temporal'] == over_frames and 0 < len(over_frames) < len(found[''])
  assert found['spatial'] == found[''] - over_frames
  assert all("['lora']" in name for name in found['']) != full


def test_numbers_that_are_given_replace_those_that_are_chosen(made):
  config = made(clips(6), clips(1), ',steps=70')
  assert config.train.num_steps == 70 and config.train.sample_every == 50


def test_mistakes_are_named_in_one_line(made, tmp_path):
  def refused(message, *arguments, **options):
    with pytest.raises(ValueError, match=message) as raised:
      made(*arguments, **options)
    assert '\n' not in str(raised.value)

  refused('is a refinement stage', clips(6), clips(1), started=refine.get_config())
  refused('has no video', images(6), clips(1))
  refused('held-out split of .* has no video', clips(6), images(1))
  refused('training: bucket .* fits none of 6 videos', clips(6, seconds=0.05), clips(1))
  refused('held-out: bucket .* fits none of 1 videos', clips(6), clips(1, seconds=0.05))
  refused("'corpse=x' is unknown", clips(6), clips(1), ',corpse=x')
  refused("part='motion' is unknown", clips(6), clips(1), ',part=motion')
  refused('holds no index', clips(6), clips(1), f',index={tmp_path}')
  for argument, message in (
    ('corpus=x', 'start=FOLDER is missing'),
    (f'start={tmp_path},corpus=x', 'holds no config.json'),
    (f'start={tmp_path / "start"}', 'corpus=FOLDER is missing'),
    (f'start={tmp_path / "start"},corpus={tmp_path / "nowhere"}', 'nowhere'),
  ):
    with pytest.raises(ValueError, match=message):
      finetune.get_config(argument)
