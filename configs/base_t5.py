"""The base stage with captions by T5, as Imagen has them, in place of CLIP's or beside them.

  python -m i2vgen_jax.train --config=configs/base_t5.py:mesh=v5p-128,corpus=gs://BUCKET/corpora \
      --workdir=gs://BUCKET/runs/base_t5 --config.t5.weights=T5 --config.t5.tokenizer=T5 ...

T5 is a folder of transformers, such as that of google/t5-v1_1-xxl; the rest as configs/i2v.py.
`t5` names its size, `clip=1` keeps CLIP's tokens too. Which is better for this model is open.
"""

from configs import common, i2v


def get_config(arg=None):
  arg = common.parse_arg(
    arg, mesh='fsdp', corpus='corpora', batch=256, context=1, t5='xxl', clip=False
  )
  config = i2v.get_config(
    f'mesh={arg.mesh},corpus={arg.corpus},batch={arg.batch},context={arg.context}'
  )
  config.t5 = common.t5(arg.t5)
  lines = common.CONDITIONERS if arg.clip else common.CONDITIONERS[1:]
  config.unet.conditioners = (dict(kind='t5_text'), *lines)
  return config
