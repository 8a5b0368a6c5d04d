"""From a diffusers folder of a small trained model, adapters learn clips that look otherwise."""

import json

import jax
import numpy as np
import pytest

from configs import finetune
from data_pipelines import demo_corpus
from data_pipelines.ingest import command as ingest
from i2vgen_jax import load, train
from i2vgen_jax.evaluation import measures
from i2vgen_jax.exports import diffusers_folder
from i2vgen_jax.pretrained import peft
from i2vgen_jax.sampling import held_out, stages
from i2vgen_jax.training import objective
from i2vgen_jax.training import step as step_lib
from tests.i2vgen_jax.test_notebook import get_config

pytestmark = pytest.mark.slow
diffusers = pytest.importorskip('diffusers')
DRAWS = 8  # Of noise and timesteps, for each held-out clip.


def corpus(folder, number, inverts):
  """Rendered clips, ingested; those that are inverted look otherwise, and their captions not."""
  (folder / 'clips').mkdir(parents=True)
  for index in range(number):
    rng = np.random.default_rng(index)
    frames, caption, _ = demo_corpus.render_video(rng, demo_corpus.attributes_of(index), size=32)
    data = demo_corpus.encode_video(255 - frames if inverts else frames)
    (folder / 'clips' / f'{index:03d}.mp4').write_bytes(data)
    (folder / 'clips' / f'{index:03d}.txt').write_text(caption)
  directory = folder / 'corpus'
  ingest.ingest(str(folder / 'clips'), str(directory), validation_fraction=0.4, num_processes=1)
  return str(directory)


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  return make_start(tmp_path_factory.mktemp('start'))


def make_start(folder):
  """A folder of `load`, from the diffusers folder of a model that saw clips as they are."""
  config = get_config()
  config.data.directories = dict(clips=corpus(folder / 'plain', 40, inverts=False))
  config.text_encoder.weights = config.image_encoder.weights = config.vae.weights = 'random'
  config.optimizer.update(peak_learning_rate=3e-3, warmup_steps=10)
  config.train.update(num_steps=150, eval_every=0, sample_every=0, tensorboard=False, ema_decay=0.9)
  config.checkpoint.every = 150
  assert train.train(config, folder / 'run') == 0
  stage = stages.load(folder / 'run')
  read_params = (dict(stage.session.frozen) | {'unet': stage.params}).get
  diffusers_folder.export_diffusers(folder / 'pipeline', stage.session.config, read_params)
  load.load(get_config(), load.find_parts(str(folder / 'pipeline')), folder / 'loaded')
  return folder / 'loaded'


def losses(workdir, directory):
  """Loss of each held-out clip, by the weights of a run or of `load`."""
  stage = stages.load(workdir)
  config = stage.session.config
  with config.unlocked():
    config.data.directories = dict(clips=directory)
  batch = held_out.clips(stage.session, stage.bucket, 64)
  batch = {name: batch[name] for name in batch if name not in ('caption', 'key')}
  loss = jax.jit(objective.make_eval_loss(stage.session, (0, 1000)))
  seeds = [step_lib.objective.data_seed(seed) for seed in range(DRAWS)]
  return np.mean([loss(stage.params, stage.session.frozen, batch, seed) for seed in seeds], axis=0)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_adapters_lower_the_loss_of_held_out_clips_and_diffusers_loads_them(start, seed, tmp_path):
  directory = corpus(tmp_path, 40, inverts=True)
  arguments = f'start={start},corpus={directory},steps=150,devices={jax.device_count()}'
  config = finetune.get_config(arguments)
  config.seed = seed
  config.train.update(eval_every=0, sample_every=0, tensorboard=False)
  assert train.train(config, tmp_path / 'run') == 0
  gain = losses(start, directory) - losses(tmp_path / 'run', directory)
  found = measures.mean_with_interval(gain)
  print(json.dumps(dict(seed=seed, **found)))
  assert found['num'] >= 8 and found['low'] > 0

  stage = stages.load(tmp_path / 'run')
  peft.export_peft(tmp_path / 'adapter', stage.session.config, stage.params['lora'])
  unet = diffusers.I2VGenXLUNet.from_pretrained(start.parent / 'pipeline', subfolder='unet')
  unet.load_attn_procs(str(tmp_path / 'adapter'))
