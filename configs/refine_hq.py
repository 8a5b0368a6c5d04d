"""The refinement stage's end: the high-quality part of its corpus, at a lower rate.

  python -m i2vgen_jax.train \
      --config=configs/refine_hq.py:mesh=v5p-128,context=2,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/refine_hq --config.start=gs://BUCKET/runs/refine \
      --config.unet.remat=products

configs/refine.py, but for what is below. The columns of the index, hq_index/, are those of `curate`
and `score` (data_pipelines/README.md), its thresholds a choice of ours, for the paper says none:

  python -m data_pipelines index --corpus=CORPORA/webvid --output=CORPORA/hq_index \
      --where="least(height, width) >= 720" --where="aesthetic >= 5" \
      --where="motion between 0.005 and 0.3"
"""

from configs import refine


def get_config(arg=None):
  config = refine.get_config(arg)
  config.data.index = config.data.index.removesuffix('refine_index') + 'hq_index'
  config.optimizer.peak_learning_rate = 1e-5
  config.train.num_steps = 20_000
  return config
