"""Fine-tunes a model on a corpus: its attention's adapters (LoRA), or all of it with `full`.

  python -m i2vgen_jax.train --config=configs/finetune.py:start=WEIGHTS,corpus=CORPUS --workdir=RUN

`start` is a run or a folder of `load`, whose model and objective this config takes over, so that
one file serves the release and the demo. `corpus` is ingested and has a held-out split; `index`
takes a part of it. Sizes, steps, rates and rank follow from the corpus: docs/finetune.md has the
table. `part` trains layers within frames alone (spatial) or over frames alone (temporal). `devices`
is how many take clips side by side; `pixels` and `steps` replace what is chosen.
"""

import math

import ml_collections
import numpy as np
from etils import epath

from configs import common, meshes
from data_pipelines.corpus import aspect_choice, aspects, buckets, reader, storage
from data_pipelines.index import table as table_lib
from i2vgen_jax.stored import old_configs

# Of the start: the model, and what it was trained to predict.
TAKEN = (
  'dtype', 'negative_prompt', 'pad_token', 'unet', 'vae', 'text_encoder', 'image_encoder', 't5',
  'schedule', 'loss', 'condition_dropout', 'sample', 'refine',
)  # fmt: skip
# Frames x pixels x channels of the first level that a device of 16 GB takes at a time: one clip of
# 16 frames of 448x256 of the release.
MOST_WORK = 16 * 448 * 256 * 320
# Corpora of at least so many clips -> batch, rank of the adapters. Small batches take more steps of
# a small corpus; more clips fill more rank.
BATCHES = {0: 4, 300: 8, 3000: 16}
RANKS = {0: 8, 30: 16, 300: 32, 3000: 64}
# Clips drawn in all: 640 sqrt(N), 260 epochs of 6 clips and 8 of 6,000.
DRAWS = 640
# AdamW's, at the release's 320 channels; an update of a layer should shrink with its width.
ADAPTER_RATE, FULL_RATE = 1e-4, 1e-5
EMA_STEPS = 2000  # Fewer steps are averaged over too few: the average lags, and gains nothing.
# Paths of the parameters of layers within frames, and over frames.
PARTS = {
  '': '',
  'spatial': r'^(?!.*(temp_|transformer_in)).*',
  'temporal': r'^(?=.*(temp_|transformer_in)).*',
}
CAPTION_DROPOUT = 0.1  # Guidance needs a model that knows no caption, too.
FIRST_LOOK = 50
FILLED = 0.8  # Share of the clips that should be long enough; else frames are taken faster.


def get_config(arg=None):
  arg = common.parse_arg(
    arg, start='', corpus='', index='', full=False, part='', steps=0, pixels=0, devices=1
  )
  config = common.release()
  started = take_over(config, arg.start)
  clips, held_out, num_images = read_corpus(arg.corpus, arg.index)
  own = sample_bucket(started)
  frames, fps, clips, held_out = shape(own, clips, held_out)
  number, work = len(clips['duration']), frames * started.unet.block_channels[0]
  own_size = aspect_choice.near((own['height'], own['width']), arg.pixels or MOST_WORK // work)
  sizes = aspect_choice.choose(own_size, clips['height'], clips['width'])
  height, width = most_held_out(sizes, held_out)

  config.start, config.mesh = arg.start, meshes.get('fsdp' if arg.full else 'all')
  batch = math.ceil(of_number(BATCHES, number) / arg.devices) * arg.devices
  fill_devices(config, batch // arg.devices, work * height * width)
  size = dict(height=height, width=width, batch_size=batch)
  config.data.directories = dict(clips=arg.corpus)
  config.data.index = arg.index
  config.data.buckets = dict(clips=common.bucket('video', frames, fps=fps, **size))
  if num_images:
    config.data.buckets.clips.weight = 7.0  # As in base: one step of eight.
    config.data.buckets.images = common.bucket('image', 1, fps=1, **size)
  if len(sizes) > 1:  # Whoever chose the clips wants all of them.
    config.data.update(aspects=sizes, max_crop=1.0, max_enlarge=100.0)
  config.sample.bucket = 'clips'
  config.condition_dropout.text = max(config.condition_dropout.text, CAPTION_DROPOUT)
  rates = config.condition_dropout.buckets  # The start's may have others.
  config.condition_dropout.buckets = {
    name: rates[name] for name in rates if name in config.data.buckets
  }

  rank = 0 if arg.full else of_number(RANKS, number)
  config.lora.update(rank=rank, alpha=float(RANKS[0]), frozen_dtype=config.dtype)
  if rank:
    config.lora.alpha = config.lora.get_oneway_ref('rank').to_float()  # Of any rank given later.
  choose_part(config, arg.part)
  rate = FULL_RATE if arg.full else ADAPTER_RATE
  config.optimizer.peak_learning_rate = rate * 320 / started.unet.block_channels[0]
  steps = round(DRAWS * number**0.5 / batch / FIRST_LOOK) * FIRST_LOOK
  set_steps(config, arg.steps or max(FIRST_LOOK, steps))
  held = len(held_out['duration'])
  config.train.update(num_eval_examples=min(64, held), num_sample_videos=min(4, held))
  return config


def choose_part(config, part):
  """Lets a part of the U-Net learn: '' all, or 'spatial' or 'temporal'; raises ValueError for
  another."""
  if part not in PARTS:
    raise ValueError(f'part={part!r} is unknown; known: spatial, temporal, or none for all.')
  if config.lora.rank:
    config.lora.match = PARTS[part] + config.lora.match
  elif part:
    others = PARTS['temporal' if part == 'spatial' else 'spatial']
    config.optimizer.groups = (dict(match=others, freeze=True),)


def fill_devices(config, of_device, work):
  """Sets how many of the clips of a device, of this work each, it takes at a time."""
  config.train.accumulation = least_divisor(of_device, max(1, MOST_WORK // work))
  at_once = of_device // config.train.accumulation
  config.unet.remat = 'block' if at_once * work > MOST_WORK // 8 else 'none'


def set_steps(config, steps):
  """Sets the length of the run, and when it is averaged, looked at and saved."""
  config.optimizer.warmup_steps = min(50, steps // 10)
  averages = steps >= EMA_STEPS
  every = max(FIRST_LOOK, round(steps / 8 / FIRST_LOOK) * FIRST_LOOK)
  config.train.update(
    num_steps=steps,
    ema_decay=0.999 if averages else 0.0,
    ema_warmup=averages,
    first_look=FIRST_LOOK,
    eval_every=every,
    sample_every=every,
  )
  config.checkpoint.update(every=every, keep_last=2, keep_every=0)


def take_over(config, start):
  """Gives the config the start's model; returns the start's own config.

  Raises:
    ValueError: there is no start, or it is a refinement stage.
  """
  if not start:
    raise ValueError('start=FOLDER is missing: weights of `load`, or the workdir of a run.')
  path = epath.Path(start) / 'config.json'
  if not path.exists():
    raise ValueError(
      f'start={start} holds no config.json: give a folder of `load`, or of a run. '
      f'{storage.where_else(start, "config.json")}'
    )
  started = ml_collections.ConfigDict(old_configs.complete(storage.read_json(path), path))
  if started.refine.levels:
    raise ValueError(f'start={start} is a refinement stage; configs/refine.py fine-tunes one.')
  for name in TAKEN:
    if name in started:
      config[name] = started[name]
  for name in ('vae', 'text_encoder', 'image_encoder', 't5'):
    if name in config:
      config[name].weights = ''  # The start's copy.
  config.tokenizer = f'{start}/tokenizer'
  if 't5' in config:
    config.t5.tokenizer = f'{start}/t5_tokenizer'
  return started


def sample_bucket(started):
  """The bucket that a run's samples have: sample.bucket, or of most frames."""
  videos = {k: v for k, v in started.data.buckets.items() if v.media == 'video'}
  if not videos:
    raise ValueError('start has no bucket of videos in its config.json: it makes none.')
  most = max(videos.values(), key=lambda bucket: bucket.frames)
  return dict(videos.get(started.sample.bucket, most))


def read_corpus(corpus, index):
  """(measures of the clips, of those held out, number of images) of table.Table.measures.

  Raises:
    ValueError: there is no such corpus or index, no held-out split, or no clip.
  """
  if not corpus:
    raise ValueError(
      'corpus=FOLDER is missing: python -m data_pipelines ingest --input=CLIPS --output=FOLDER'
    )
  train, validation = (reader.Corpora(dict(clips=corpus), part) for part in ('train', 'validation'))
  table = table_lib.read(index, train) if index else table_lib.whole(train)
  clips = table.measures('video')
  held_out = table_lib.whole(validation).measures('video')
  for found, name in ((clips, index or corpus), (held_out, f'the held-out split of {corpus}')):
    if not len(found['duration']):
      raise ValueError(f'{name} has no video: fine-tuning takes clips, and images beside them.')
  return clips, held_out, len(table.measures('image')['duration'])


def shape(own, clips, held_out):
  """(frames, fps, clips that fill them, held-out clips that do): the start's, if they do.

  Else frames are taken up to four times as fast, or are fewer: the first that FILLED of the clips
  fill, or that most do.

  Raises:
    ValueError: no clip, or no held-out one, fills any.
  """
  found = []
  for frames in (own['frames'], own['frames'] // 2, own['frames'] // 4):
    for faster in (1, 2, 4):
      if frames > 1:
        fields = own | dict(frames=frames, fps=own['fps'] * faster, media='video')
        bucket = buckets.Bucket(name='clips', **fields)
        fits = [buckets.fills(bucket, x['duration'], x['fps']) for x in (clips, held_out)]
        found.append((bucket, *fits))
  found = [row for row in found if row[1].any() and row[2].any()]
  if not found:
    bucket = buckets.Bucket(name='clips', **own)
    for name, x in (('training', clips), ('held-out', held_out)):
      if not buckets.fills(bucket, x['duration'], x['fps']).any():
        raise ValueError(f'{name}: {buckets.nothing_fits(bucket, x["duration"], x["fps"])}')
  filled = [row for row in found if row[1].mean() >= FILLED]
  bucket, *fits = filled[0] if filled else max(found, key=lambda row: row[1].mean())
  pairs = zip((clips, held_out), fits, strict=True)
  taken = [{name: values[fit] for name, values in measures.items()} for measures, fit in pairs]
  return bucket.frames, bucket.fps, *taken


def most_held_out(sizes, held_out):
  """The size that most held-out clips go to: validation has one size."""
  framing = aspects.Framing('', sizes)
  counts = np.bincount(framing.assign(held_out['height'], held_out['width']), minlength=len(sizes))
  return sizes[int(counts.argmax())]


def of_number(table, number):
  """The value of the largest key that is not above the number."""
  return table[max(least for least in table if least <= number)]


def least_divisor(total, at_once):
  """The fewest parts of equal size, at most `at_once`, that make up the total."""
  parts = range(1, total + 1)
  return next(part for part in parts if not total % part and total // part <= at_once)
