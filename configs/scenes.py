"""The demo model that is shipped: shaded shapes before filmed backdrops, two seconds at 64x64.

  python -m i2vgen_jax.train --config=configs/scenes.py --workdir=scenes/run

launch/scenes.sh makes the corpus, trains this and writes what i2vgen_jax/demo/scenes holds.
`corpus` has the ingested and curated folders videos/ and images/, `index` knows how much moves in
each clip, `cache` is what precompute made of them.
"""

from configs import common, demo

FOLDER = 'i2vgen_jax/demo/scenes'


def get_config(arg=None):
  arg = common.parse_arg(arg, corpus='scenes/corpus', index='', cache='', steps=2600)
  config = demo.get_config(f'corpus={arg.corpus},steps={arg.steps}')
  config.tokenizer = f'{FOLDER}/tokenizer'
  config.text_encoder.model.vocab_size = 933
  demo.use_vae(config, FOLDER)
  # Latents have 16x16 pixels: attention is for the halved ones.
  config.unet.update(
    block_channels=(32, 64, 64),
    attention_levels=(False, True, True),
    conditioners=(*common.CONDITIONERS, dict(kind='motion')),
  )
  config.data.buckets.videos.update(fps=4.0)
  # A picture shown its own latents would teach to copy them.
  config.condition_dropout.buckets = dict(images=dict(image_latents=1.0))
  config.data.update(index=arg.index, cache=arg.cache)
  config.train.update(
    ema_decay=0.998, log_every=50, eval_every=500, sample_every=1000, levels_every=500
  )
  config.checkpoint.update(every=250)
  return config
