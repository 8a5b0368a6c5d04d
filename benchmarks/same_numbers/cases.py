"""What is run in each tree: commands and config fields, no modules of ours (but batches.py).

Everything is as small as it may be and still meets each path once: compiling is most of the time.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.same_numbers import collect

DRIVER = pathlib.Path(__file__).with_name('batches.py')
CORPUS = 'corpus'  # The case that comes before all others.
Command = tuple[str, ...]  # Arguments of python.


class Place(NamedTuple):
  """Where the cases of one side read and write."""

  folder: pathlib.Path  # Case NAME writes to folder/NAME.
  reference: pathlib.Path  # The same of the reference: its corpus is read by both sides.
  picture: pathlib.Path  # The first frame to sample from.


@dataclasses.dataclass(frozen=True)
class Case:
  """Commands of python, and how to read what they leave.

  Attributes:
    commands: (place, folder of the case) -> what is run, one after the other.
    read: folder of the case -> {comparison: {name: array}}.
    needs: cases whose folders it reads, besides the reference's corpus.
    devices: that XLA makes of the CPU.
  """

  commands: Callable[[Place, pathlib.Path], Sequence[Command]]
  read: Callable[[pathlib.Path], Mapping[str, collect.Arrays]]
  needs: tuple[str, ...] = ()
  devices: int = 1


SMALL = {
  'unet.block_channels': (32, 64),
  'unet.attention_levels': (False, True),
  'unet.temporal_in_heads': 2,
  'unet.norm_groups': 32,  # This and the width of the context are built into VGen's classes.
  'unet.context_dim': 1024,
  'text_encoder.model.hidden_size': 1024,
  'text_encoder.model.num_layers': 1,
  'image_encoder.model.projection_dim': 1024,
  'image_encoder.model.num_layers': 1,
  'data.buckets.videos.frames': 4,
  'data.buckets.videos.height': 32,
  'data.buckets.videos.width': 32,
  'data.buckets.videos.batch_size': 4,
  'optimizer.kind': 'adamw',
  'optimizer.warmup_steps': 2,
  'sample.num_steps': 2,
  'train.num_steps': 3,
  'train.log_every': 1,
  'train.eval_every': 0,
  'train.sample_every': 0,
  'train.num_eval_examples': 4,
  'train.num_sample_videos': 2,
  'train.tensorboard': False,
}
IMAGES = {
  'data.buckets.images.height': 32,
  'data.buckets.images.width': 32,
  'data.buckets.images.batch_size': 4,
  'data.buckets.images.weight': 9.0,  # As the videos': every other step.
}
EXPORTED = {'unet.temporal_in_heads': 8}  # Theirs, built in.
BASE = EXPORTED | {
  'unet.dropout': 0.1,
  'condition_dropout.text': 0.3,
  'condition_dropout.image_embedding': 0.3,
  'condition_dropout.image_latents': 0.3,
  'train.eval_every': 2,
  'train.sample_every': 3,
}
REFINEMENT = EXPORTED | {
  'data.buckets.videos.height': 64,
  'data.buckets.videos.width': 64,
  'refine.height': 32,
  'refine.width': 32,
  'train.eval_every': 2,
}
CACHED = {
  'train.ema_warmup': False,
  'optimizer.weight_decay': 0.01,
  'loss.min_snr_gamma': 5.0,
}
# Muon on adapters, which have few shapes: of a whole U-Net it compiles for a minute.
LORA = EXPORTED | {'lora.rank': 2, 'train.accumulation': 2, 'optimizer.kind': 'muon'}
MESH = {
  'mesh.data': 2,
  'mesh.fsdp': 2,
  'mesh.tensor': 2,
  'sharding.min_elements': 2,
  'train.eval_every': 2,
}


def train(
  config: str,
  overrides: Mapping[str, object],
  *,
  images: bool = False,
  start: str = '',
  cache: str = '',
  resumed: bool = False,
) -> Callable[[Place, pathlib.Path], Sequence[Command]]:
  """Commands of one training.

  Args:
    config: 'demo' or 'refine_demo'.
    overrides: of its fields, beside SMALL.
    images: whether images are mixed in.
    start: case whose run it starts from.
    cache: case whose latents it reads.
    resumed: whether it ends after two steps, and another process goes on from there.
  """

  def commands(place, folder):
    argument = f'corpus={place.reference / CORPUS}'
    if config == 'demo' and not images:
      argument += ',images=0'
    given = SMALL | (IMAGES if images else {}) | overrides
    if start:
      given['start'] = place.folder / start / 'run'
    if cache:
      given['data.cache'] = place.folder / cache / 'cache'
    command = (
      '-m', 'i2vgen_jax.train', f'--config=configs/{config}.py:{argument}',
      f'--workdir={folder / "run"}', *flags(given),
    )  # fmt: skip
    first_part = [(*command, '--config.train.stop_at=2')] if resumed else []
    return [*first_part, command]

  return commands


def flags(overrides: Mapping[str, object]) -> list[str]:
  """Fields of a config as flags."""
  return [f'--config.{name}={value}'.replace(' ', '') for name, value in overrides.items()]


def _corpus(place, folder):
  source = folder / 'source'
  counts = ('--num_videos=16', '--num_validation=4', '--num_images=12', '--num_processes=1')
  ingest = ('-m', 'data_pipelines', 'ingest', '--num_processes=1')
  return [
    ('-m', 'data_pipelines', 'demo', f'--output={source}', *counts),
    (*ingest, f'--input={source / "webvid"}', f'--output={folder / "videos"}'),
    (*ingest, f'--input={source / "images"}', f'--output={folder / "images"}'),
  ]


def _precompute(place, folder):
  config = f'configs/demo.py:corpus={place.reference / CORPUS}'
  output = f'--output={folder / "cache"}'
  return [('-m', 'i2vgen_jax.precompute', f'--config={config}', output, *flags(SMALL | IMAGES))]


def _sample(place, folder):
  given = (f'--workdir={place.folder / "base/run"}', f'--image={place.picture}', '--seed=3')
  command = ('-m', 'i2vgen_jax.sample', '--prompt=a red circle moves left', *given)
  return [
    (*command, f'--output={folder / "base.mp4"}'),
    (*command, f'--output={folder / "raw.mp4"}', '--weights=raw', '--sampler=dpmpp_2m'),
  ]


def _cascade(place, folder):
  stages = (
    f'--workdir={place.folder / "base/run"}',
    f'--refine_workdir={place.folder / "refine/run"}',
  )
  given = (f'--image={place.picture}', '--prompt=a blue square moves up', '--seed=4')
  return [('-m', 'i2vgen_jax.sample', *stages, *given, f'--output={folder / "refined.mp4"}')]


def _export(run, layout, name):
  def commands(place, folder):
    given = (f'--workdir={place.folder / run / "run"}', f'--format={layout}')
    return [('-m', 'i2vgen_jax.export', *given, f'--output={folder / name}')]

  return commands


def _batches(place, folder):
  return [
    ('-P', str(DRIVER), str(place.folder / run / 'run'), '4', str(folder / f'{run}.npz'))
    for run in ('base', 'cached', 'refine')
  ]


def _peek(place, folder):
  run = place.folder / 'base/run'
  peek = ('-m', 'data_pipelines', 'peek', f'--workdir={run}', f'--output={folder}')
  return [(*peek, '--step=1')]


RUN = collect.run
FILES = collect.files
CASES = {
  CORPUS: Case(_corpus, lambda folder: FILES(folder, 'videos', 'images')),
  'base': Case(train('demo', BASE, images=True), RUN),
  'precompute': Case(_precompute, lambda folder: FILES(folder, 'cache')),
  'mesh': Case(train('demo', MESH), RUN, devices=8),
  'refine': Case(train('refine_demo', REFINEMENT, start='base'), RUN, ('base',)),
  'cached': Case(train('demo', CACHED, images=True, cache='precompute'), RUN, ('precompute',)),
  'lora': Case(train('demo', LORA, start='base'), RUN, ('base',)),
  'sample': Case(_sample, lambda folder: FILES(folder, 'base.mp4', 'raw.mp4'), ('base',)),
  'cascade': Case(_cascade, lambda folder: FILES(folder, 'refined.mp4'), ('base', 'refine')),
  'diffusers': Case(
    _export('base', 'diffusers', 'exported'), lambda folder: FILES(folder, 'exported'), ('base',)
  ),
  'vgen': Case(
    _export('base', 'vgen', 'i2vgen_xl_00000003.pth'),
    lambda folder: FILES(folder, 'i2vgen_xl_00000003.pth'),
    ('base',),
  ),
  'peft': Case(
    _export('lora', 'peft', 'exported'), lambda folder: FILES(folder, 'exported'), ('lora',)
  ),
  'batches': Case(
    _batches,
    lambda folder: FILES(folder, 'base.npz', 'cached.npz', 'refine.npz'),
    ('base', 'precompute', 'cached', 'refine'),
  ),
  'peek': Case(
    _peek, lambda folder: FILES(folder, 'step-00000001.json', 'step-00000001.png'), ('base',)
  ),
}


def with_needs(names: Sequence[str]) -> list[str]:
  """The named cases and all that they read, in the order of CASES.

  Raises:
    ValueError: an unknown name.
  """
  unknown = sorted(set(names) - set(CASES))
  if unknown:
    raise ValueError(f'--only={",".join(unknown)} is unknown; known: {", ".join(CASES)}.')
  wanted, waiting = set(), list(names)
  while waiting:
    name = waiting.pop()
    wanted.add(name)
    waiting += CASES[name].needs
  return [name for name in CASES if name in wanted]
