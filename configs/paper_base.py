"""The base stage as the paper has it: 448x256, no text, its own encoders of the image.

  python -m i2vgen_jax.train \
      --config=configs/paper_base.py:mesh=v5p-128,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/paper_base --config.start=gs://BUCKET/runs/t2v \
      --config.image_encoder.weights=gs://BUCKET/weights/clip.safetensors

Data, size and arguments are those of the text-to-video stage. Frames, rates and the learning rate
are the paper's; docs/recipe.md says which of them we could not check. Not yet run on a pod.
"""

from configs import common, t2v

FRAMES = {8: 1, 16: 1, 32: 5}  # Frames of videos: their share; 1 of 8 steps is of images.
RATES = {4: 2, 8: 4, 16: 1}  # Frames per second: their share, for each number of frames.


def get_config(arg=None):
  config = t2v.get_config(arg)
  config.unet.conditioners = (
    dict(kind='global_image_tokens', num_tokens=4),
    dict(kind='first_frame_latents'),
    dict(kind='fps'),
  )
  buckets = config.data.buckets
  batch = buckets.f16_at_8.batch_size
  images = dict(buckets.images, weight=float(sum(RATES.values())))
  config.data.buckets = dict(images=images) | {
    f'f{frames}_at_{fps}': common.bucket(
      'video', frames, 256, 448, fps, max(1, 16 * batch // frames), share * of_rate
    )
    for frames, share in FRAMES.items()
    for fps, of_rate in RATES.items()
  }
  # As in i2v.py. (The latents are added to an image's noise besides.)
  config.condition_dropout.buckets = dict(images=dict(image_latents=1.0))
  config.optimizer.update(peak_learning_rate=8e-5, schedule='constant')
  config.sample.update(bucket='f32_at_8', guidance_scale=3.0)  # ModelScope's Image-to-Video.
  return config
