"""The base stage: image and text to video at 448x256, from the text-to-video stage.

  python -m i2vgen_jax.train --config=configs/i2v.py:mesh=v5p-128,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/i2v --config.start=gs://BUCKET/runs/t2v \
      --config.image_encoder.weights=gs://BUCKET/weights/clip.safetensors

The text-to-video stage's config with the release's conditions: the image by CLIP and by the VAE,
and the frame rate. They grow into the start (docs/recipe.md). 26.2 TFLOP per 16-frame video and
step. Not yet run on a pod.
"""

from configs import common, t2v


def get_config(arg=None):
  config = t2v.get_config(arg)
  config.unet.conditioners = common.CONDITIONERS
  # An image is its own first frame: shown it, the model would learn to copy.
  config.condition_dropout.buckets = dict(images=dict(image_latents=1.0))
  return config
