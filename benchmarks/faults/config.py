"""The smallest run that has all the parts to which something can happen."""

import ml_collections

from benchmarks.faults import draw
from configs import demo


def get_config(corpus: str) -> ml_collections.ConfigDict:
  """The demo's videos at 32x32, a caption as the only condition; compiled in a minute or two.

  Args:
    corpus: folder of the demo corpus.
  """
  config = demo.get_config(f'corpus={corpus},images=0')
  config.unet.update(
    block_channels=(16,),
    attention_levels=(True,),
    norm_groups=4,
    temporal_in_heads=2,
    conditioners=(dict(kind='text'),),
  )
  config.condition_dropout = dict(text=0.1)
  config.text_encoder.model.num_layers = 1
  config.image_encoder.weights = ''
  config.data.buckets.videos.update(frames=4, height=32, width=32, batch_size=4)
  config.optimizer.update(kind='adamw', warmup_steps=2)
  config.train.update(
    num_steps=draw.NUM_STEPS,
    eval_every=0,
    log_every=2,
    sample_every=0,
    num_eval_examples=4,
    tensorboard=False,
  )
  config.checkpoint.update(every=draw.SAVE_EVERY, keep_last=3)
  config.hosts.update(heartbeat_secs=20, leave_secs=30)
  return config
