"""The first stage: text to video at 448x256, from Stable Diffusion 2.1, on images and videos.

  python -m i2vgen_jax.load --config=configs/t2v.py --unet=v2-1_768-ema-pruned.safetensors \
      --vae=v2-1_768-ema-pruned.safetensors --text_encoder=v2-1_768-ema-pruned.safetensors \
      --tokenizer=FOLDER --output=gs://BUCKET/runs/sd21
  python -m i2vgen_jax.train --config=configs/t2v.py:mesh=v5p-128,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/t2v --config.start=gs://BUCKET/runs/sd21

`corpus` holds the ingested folders webvid/ and laion/; `context` devices share a video where a
batch has fewer than devices, as the 32-frame half of 256 on v5e-256. `aspects` trains at four
shapes of about 448x256 pixels, each example at the one that crops it least. docs/recipe.md says
where each number is from. Not yet run on a pod.
"""

from configs import common, meshes

CAPTION = (dict(kind='text'),)


def get_config(arg=None):
  arg = common.parse_arg(arg, mesh='fsdp', corpus='corpora', batch=256, context=1, aspects=False)
  config = common.release()
  config.mesh = meshes.get(arg.mesh, arg.context)
  config.unet.conditioners = CAPTION
  config.data.directories = dict(webvid=f'{arg.corpus}/webvid', laion=f'{arg.corpus}/laion')
  # VGen's eight ranks in turn: one of images, then frames x fps as listed; tokens per step are
  # about constant. (t2v_train.yaml: frame_lens [1,16x4,32x3], sample_fps [1,8,16,16,16,8,16,16].)
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
  config.train.num_steps = 300_000
  config.sample.bucket = 'f16_at_8'
  return config
