"""The refinement stage at demo size: 128x128 from the demo's 64x64, by the same code.

  python -m i2vgen_jax.train --config=configs/refine_demo.py --workdir=quickstart/refine \
      --config.start=quickstart/run

`corpus` holds the ingested folder videos/, of clips of at least 128 pixels; `vae` what
`i2vgen_jax.demo.train_vae` made for that size: docs/cascade.md, which also has what it brings.
"""

from configs import common, demo, refine


def get_config(arg=None):
  arg = common.parse_arg(arg, corpus='quickstart/corpus_128', vae=demo.DEMO, steps=500)
  config = demo.get_config(f'corpus={arg.corpus},steps={arg.steps},images=0')
  demo.use_vae(config, arg.vae)
  stage = refine.get_config()
  config.unet.conditioners = stage.unet.conditioners
  config.loss.timestep_range = stage.loss.timestep_range
  config.loss.timestep_shift = 1.0
  config.refine.update(levels=600, height=64, width=64)
  config.data.buckets.videos.update(height=128, width=128, batch_size=4)
  config.sample.update(stage.sample, num_steps=20, guidance_scale=1.0, bucket='videos')
  return config
