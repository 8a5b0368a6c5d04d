"""configs/demo.py at its smallest: the same code, compiled in seconds."""

import ml_collections

from configs import common, demo
from i2vgen_jax import conditions

RELEASED = conditions.read(common.CONDITIONERS)  # Lines, for a U-Net that is made by itself.
TEXT = conditions.read([dict(kind='text')])


def get_config(corpus, num_steps=6, images=False):
  """One level of 16 channels, 4 frames of 32x32, 8 videos per step."""
  config = demo.get_config(f'corpus={corpus},images={int(images)}')
  config.unet.update(
    block_channels=(16,), attention_levels=(False,), head_dim=8, norm_groups=4, temporal_in_heads=2
  )
  config.data.buckets.videos.update(frames=4, height=32, width=32, batch_size=8)
  if images:
    config.data.buckets.images.update(height=32, width=32, batch_size=8, weight=9.0)
  config.sharding.min_elements = 2  # Split whatever the rules name.
  config.train.update(
    num_steps=num_steps, log_every=1, eval_every=0, sample_every=0, tensorboard=False
  )
  config.train.update(num_eval_examples=8, num_sample_videos=2)
  config.optimizer.update(kind='adamw', warmup_steps=2, groups=())
  config.checkpoint.update(every=3)
  config.sample.update(num_steps=2)
  return config


def shrunk(config, corpus, num_steps=1):
  """A shipped config with the sizes, corpora and frozen weights of the tiny one; its buckets of
  images and videos are one of each."""
  images = 'image' in [bucket.media for bucket in config.data.buckets.values()]
  small = get_config(corpus, num_steps, images)
  sizes = ('block_channels', 'attention_levels', 'layers_per_block', 'head_dim', 'norm_groups')
  for field in (*sizes, 'temporal_in_heads', 'context_dim'):
    config.unet[field] = small.unet[field]
  for block in ('vae', 'text_encoder', 'image_encoder', 'tokenizer', 'train', 'mesh', 'sharding'):
    config[block] = small[block]
  config.data.directories, config.data.buckets = small.data.directories, small.data.buckets
  config.sample.update(bucket='videos', num_steps=2)
  config.optimizer.warmup_steps = 0
  return config


def t5(tokenizer):
  """The block config.t5 of an encoder of 16 channels with random weights."""
  block = ml_collections.ConfigDict(common.t5('small'))
  block.update(weights='random', tokenizer=str(tokenizer))
  block.model.update(
    vocab_size=64, hidden_size=16, intermediate_size=32, head_dim=8, num_layers=1, num_heads=2,
    max_length=12,
  )  # fmt: skip
  return block
