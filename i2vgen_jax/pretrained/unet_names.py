"""Names of the U-Net's tensors in diffusers' I2VGenXLUNet."""

import re

from i2vgen_jax.pretrained import tensors

# Applied to the Flax path, before lists and leaves get torch's names.
_RULES = (
  (r'^image_tokens/linear_', 'context_embedding_'),
  (r'^image_latent_tokens/conv_', 'image_latents_context_embedding_'),
  (r'^image_latents/', 'image_latents_'),
  (r'^fps/linear_', 'fps_embedding_'),
  (r'^time_embedding/linear_', 'time_embedding/linear_/'),
  (r'resnets_(\d+)/temp_conv/', r'temp_convs_\1/'),
  (r'/net_0_proj/', '/net_0/proj/'),
)


def name_of(path: str) -> str:
  """'down_blocks_0/resnets_0/conv1/kernel' -> 'down_blocks.0.resnets.0.conv1.weight'."""
  for pattern, replacement in _RULES:
    path = re.sub(pattern, replacement, path)
  # These two are called linear_1 and linear_2: no list.
  return tensors.torch_name(path).replace('linear_.', 'linear_')
