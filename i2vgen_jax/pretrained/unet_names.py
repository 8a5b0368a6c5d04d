"""Names of the U-Net's tensors in diffusers' I2VGenXLUNet."""

import re

# Applied in order to the Flax path; the last two turn list members (name_3) and separators into dots.
_RULES = (
  (r'^image_tokens/linear_', 'context_embedding/'),
  (r'^image_latent_tokens/conv_', 'image_latents_context_embedding/'),
  (r'^image_latents/', 'image_latents_'),
  (r'^fps/linear_', 'fps_embedding/'),
  (r'resnets_(\d+)/temp_conv/', r'temp_convs_\1/'),
  (r'net_0_proj', 'net_0/proj'),
  (r'/(kernel|scale)$', '/weight'),
  (r'(?<!linear)_(\d+)(?=/)', r'/\1'),
  (r'/', '.'),
)


def name_of(path):
  """'down_blocks_0/resnets_0/conv1/kernel' -> 'down_blocks.0.resnets.0.conv1.weight'."""
  for pattern, replacement in _RULES:
    path = re.sub(pattern, replacement, path)
  return path
