"""The released model's single stage: image and text to video at 1280x704, from the base stage.

  python -m i2vgen_jax.train \
      --config=configs/release.py:mesh=v5p-128,context=2,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/release --config.start=gs://BUCKET/runs/i2v \
      --config.unet.remat=products

VGen's i2vgen_xl_train.yaml: eight ranks of videos, none of images, and nothing is dropped. `corpus`
holds webvid/, ingested. `context` devices share a video where a batch has fewer than devices. 264
TFLOP per 16-frame video and step. Not yet run on a pod.
"""

from configs import common, meshes


def get_config(arg=None):
  arg = common.parse_arg(arg, mesh='fsdp', corpus='corpora', batch=64, context=1)
  config = common.release()
  config.mesh = meshes.get(arg.mesh, arg.context)
  config.data.directories = dict(webvid=f'{arg.corpus}/webvid')
  # frame_lens [16x5,32x3], sample_fps [8,8,16,16,16,8,16,16]; half the batch for 32 frames.
  size = dict(height=704, width=1280)
  config.data.buckets = dict(
    f16_at_8=common.bucket('video', 16, fps=8, batch_size=arg.batch, weight=2, **size),
    f16_at_16=common.bucket('video', 16, fps=16, batch_size=arg.batch, weight=3, **size),
    f32_at_8=common.bucket('video', 32, fps=8, batch_size=arg.batch // 2, weight=1, **size),
    f32_at_16=common.bucket('video', 32, fps=16, batch_size=arg.batch // 2, weight=2, **size),
  )
  config.condition_dropout.update(text=0.0, image_embedding=0.0)
  config.optimizer.max_grad_norm = 0.0
  config.vae.frames_per_chunk = 1
  config.sample.bucket = 'f16_at_16'
  return config
