"""The refinement stage of I2VGen-XL: 1280x720 from the base stage's 448x256, guided by the caption.

  python -m i2vgen_jax.train \
      --config=configs/refine.py:mesh=v5p-128,context=2,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/refine --config.start=gs://BUCKET/runs/i2v \
      --config.unet.remat=products

The text-to-video stage's config, but for what is below. `corpus` holds webvid/, ingested, and an
index of its videos that are large enough, refine_index/:

  python -m data_pipelines index --corpus=CORPORA/webvid --output=CORPORA/refine_index \
      --where="least(height, width) >= 720"

configs/refine_hq.py goes on from this run, with the best of these. `aspects` trains at four shapes,
to refine what the base stage makes with its own. `context` devices share a video where a batch has
fewer than devices. 274 TFLOP per 16-frame video and step. Not yet run on a pod.
"""

from configs import common, t2v


def get_config(arg=None):
  arg = common.parse_arg(arg, mesh='fsdp', corpus='corpora', batch=64, context=1, aspects=False)
  config = t2v.get_config(
    f'mesh={arg.mesh},corpus={arg.corpus},batch={arg.batch},context={arg.context}'
  )
  # Paper Sec. 3.2: text alone; noise up to level 600 of 1000, which keeps the base's layout.
  config.loss.timestep_range = (0, 600)
  config.refine.update(levels=600, height=256, width=448)
  config.data.directories = dict(webvid=f'{arg.corpus}/webvid')
  config.data.index = f'{arg.corpus}/refine_index'
  size = dict(height=720, width=1280)
  config.data.buckets = dict(
    f16_at_8=common.bucket('video', 16, fps=8, batch_size=arg.batch, weight=1, **size),
    f16_at_16=common.bucket('video', 16, fps=16, batch_size=arg.batch, weight=1, **size),
    f32_at_16=common.bucket('video', 32, fps=16, batch_size=arg.batch // 2, weight=1, **size),
  )
  if arg.aspects:  # Those of the base stage with `aspects`.
    config.data.aspects = ((720, 1280), (1280, 720), (880, 1056), (1056, 880))
  config.vae.update(frames_per_chunk=1)
  # ModelScope's Video-to-Video, the public code nearest to the paper's second stage.
  config.sample.update(
    sampler='dpmpp_2m_sde',
    spacing='trailing',
    num_steps=30,
    guidance_scale=7.5,
    guidance_rescale=0.2,
    bucket='f16_at_8',
  )
  config.train.num_steps = 100_000
  return config
