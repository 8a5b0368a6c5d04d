"""Moving shapes on a laptop: the whole system at small numbers, trained on the demo corpus.

  python -m i2vgen_jax.train --config=configs/demo.py --workdir=quickstart/run

`corpus` holds the ingested folders videos/ and images/ that launch/quickstart.sh makes.
"""

import json
import pathlib

from configs import common

DEMO = 'i2vgen_jax/demo'


def get_config(arg=None):
  arg = common.parse_arg(arg, corpus='quickstart/corpus', steps=320, images=True)
  config = common.release()
  config.dtype = 'float32'
  config.negative_prompt = ''
  config.tokenizer = f'{DEMO}/tokenizer'
  config.pad_token = '<|endoftext|>'
  config.unet.update(
    block_channels=(32, 64),
    attention_levels=(True, True),
    layers_per_block=1,
    head_dim=8,
    norm_groups=16,
    dropout=0.0,
    context_dim=64,
    temporal_in_heads=8,
    remat='none',
  )
  use_vae(config, DEMO)
  config.vae.frames_per_chunk = 16
  config.text_encoder.weights = 'random'
  config.text_encoder.model.update(
    vocab_size=856, hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, max_length=16
  )
  config.image_encoder.weights = 'random'
  config.image_encoder.model.update(
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    patch_size=8,
    image_size=32,
    projection_dim=64,
  )
  config.data.directories = dict(videos=f'{arg.corpus}/videos')
  size = dict(height=64, width=64)
  config.data.buckets = dict(
    videos=common.bucket('video', 8, fps=8, batch_size=8, weight=9, **size)
  )
  if arg.images:
    config.data.directories.images = f'{arg.corpus}/images'
    config.data.buckets.images = common.bucket('image', 1, fps=1, batch_size=32, weight=1, **size)
  # A video of so few latents shows where it goes as soon as a tenth of the noise is gone: uniform
  # timesteps would teach the caption's direction to one sample in ten.
  config.loss.timestep_shift = 6.0
  config.data.num_threads = 2
  # On pooled toy latents, after 150 steps: loss 0.20 by Muon at batch 8, 0.29 by AdamW at 16.
  config.optimizer.update(
    kind='muon',
    muon_rms=0.6,
    peak_learning_rate=2e-3,
    warmup_steps=min(20, arg.steps),
    b2=0.99,
  )
  config.train.update(
    num_steps=arg.steps,
    ema_decay=0.995,
    ema_warmup=True,
    log_every=20,
    eval_every=160,
    sample_every=320,
    num_eval_examples=32,
    num_sample_videos=4,
  )
  config.checkpoint.update(every=100, keep_last=2, keep_every=0)
  config.sample.update(num_steps=20, guidance_scale=3.0, bucket='videos')
  return config


def use_vae(config, folder):
  """Sets the autoencoder that demo.train_vae left in a folder; raises ValueError without one."""
  path = pathlib.Path(__file__).parent.parent / folder / 'vae.json'
  if not path.exists():
    raise ValueError(f'vae={folder} has no vae.json: python -m i2vgen_jax.demo.train_vae makes it.')
  fields = json.loads(path.read_text())
  config.vae.weights = f'{folder}/vae.safetensors'
  config.vae.scaling_factor = fields.pop('scaling_factor')
  config.vae.model.update(fields)
