"""The base stage of I2VGen-XL: 448x256, 16 and 32 frames, images joined in as one-frame videos.

  python -m i2vgen_jax.train --config=configs/base.py:mesh=v5p-128,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/base --config.vae.weights=... --config.text_encoder.weights=... \
      --config.image_encoder.weights=... --config.tokenizer=...

`corpus` holds the ingested folders webvid/ and laion/; `context` devices share a video where a
batch has fewer than devices, as the 32-frame half of 256 on v5e-256. `aspects` trains at four
shapes of about 448x256 pixels, each example at the one that crops it least. 26.2 TFLOP per 16-frame
video and step. Not yet run on a pod.
"""

from configs import common, meshes


def get_config(arg=None):
  arg = common.parse_arg(arg, mesh='fsdp', corpus='corpora', batch=256, context=1, aspects=False)
  config = common.release()
  config.mesh = meshes.get(arg.mesh, arg.context)
  config.data.directories = dict(webvid=f'{arg.corpus}/webvid', laion=f'{arg.corpus}/laion')
  # The text-to-video stage's eight ranks in turn: one of images, then frames x fps as listed;
  # tokens per step are about constant. (VGen: frame_lens [1,16x4,32x3], sample_fps
  # [1,8,16,16,16,8,16,16].)
  size = dict(height=256, width=448)
  config.data.buckets = dict(
    images=common.bucket('image', 1, fps=1, batch_size=16 * arg.batch, weight=1, **size),
    f16_at_8=common.bucket('video', 16, fps=8, batch_size=arg.batch, weight=1, **size),
    f16_at_16=common.bucket('video', 16, fps=16, batch_size=arg.batch, weight=3, **size),
    f32_at_8=common.bucket('video', 32, fps=8, batch_size=arg.batch // 2, weight=1, **size),
    f32_at_16=common.bucket('video', 32, fps=16, batch_size=arg.batch // 2, weight=2, **size),
  )
  if arg.aspects:  # 12 programs in place of 3.
    config.data.aspects = ((256, 448), (448, 256), (320, 384), (384, 320))
  config.optimizer.peak_learning_rate = 8e-5  # The paper's, constant.
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_steps = 1000
  config.train.num_steps = 300_000
  config.sample.bucket = 'f16_at_8'
  return config
