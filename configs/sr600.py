"""VGen's refinement, UNetSD_SR600: what its released weights load into, and train on in.

  python -m i2vgen_jax.load --config=configs/sr600.py --unet=sr_step_110000_ema.pth --vae=... \
      --text_encoder=OPEN_CLIP --image_encoder=OPEN_CLIP --tokenizer=FOLDER --output=sr600

The refinement stage's config, but for what is below: another U-Net round the same weights, and
VGen's way of sampling, by DDIM inversion. Its released weights have not been seen here.
"""

from configs import common, refine


def get_config(arg=None):
  arg = common.parse_arg(arg, mesh='fsdp', corpus='corpora', batch=64)
  config = refine.get_config(f'mesh={arg.mesh},corpus={arg.corpus},batch={arg.batch}')
  config.unet.update(row_margin=1, free_u=((1.1, 0.6), (1.2, 0.4)))
  # sr600_infer.yaml.
  config.loss.timestep_range = (0, 700)
  config.refine.update(levels=700, inversion_steps=30)
  config.sample.update(
    schedule='logsnr_cosine_interp', num_steps=30, guidance_scale=9.0, guidance_rescale=0.3
  )
  return config
