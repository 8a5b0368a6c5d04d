"""Names of the U-Net's tensors: in diffusers' I2VGenXLUNet, in VGen, and what Stable Diffusion has.

VGen's are those of ali-vilab/VGen at 4014d1f, tools/modules/unet/unet_i2vgen.py and unet_sr600.py,
its refinement. Stable Diffusion 2.1 gives all spatial layers, in diffusers' names or in those of
its own latent-diffusion code. Its conv_in reads the noisy latents and gets zeros for the image's;
what it lacks keeps its initial values: every temporal layer is the identity, and the frame rate
adds nothing. So a fresh model treats every frame as Stable Diffusion does, as long as the caption
is the whole context: image tokens beside it (image_tokens, image_latent_tokens) take part of the
attention from the first step.
"""

import re
from collections.abc import Mapping

from i2vgen_jax.models import unet3d
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

# diffusers' names -> those of latent-diffusion and of VGen, outside of the blocks.
_LDM = {
  r'time_embedding\.linear_1\.': 'time_embed.0.',
  r'time_embedding\.linear_2\.': 'time_embed.2.',
  r'conv_in\.': 'input_blocks.0.0.',
  r'conv_norm_out\.': 'out.0.',
  r'conv_out\.': 'out.2.',
}
_VGEN = {
  r'transformer_in\.': 'input_blocks.0.1.',
  r'image_latents_proj_in\.': 'local_image_concat.',
  r'image_latents_context_embedding\.': 'local_image_embedding.',
  r'image_latents_temporal_encoder\.norm1\.': 'local_temporal_encoder.layers.0.0.norm.',
  r'image_latents_temporal_encoder\.attn1\.to_[qkv]\.': (
    'local_temporal_encoder.layers.0.0.fn.to_qkv.'
  ),
  r'image_latents_temporal_encoder\.attn1\.to_out\.': (
    'local_temporal_encoder.layers.0.0.fn.to_out.'
  ),
  r'image_latents_temporal_encoder\.ff\.net\.0\.proj\.': (
    'local_temporal_encoder.layers.0.1.net.0.0.'
  ),
  r'image_latents_temporal_encoder\.ff\.net\.2\.': 'local_temporal_encoder.layers.0.1.net.2.',
}
_RESNET = {
  'norm1': 'in_layers.0',
  'conv1': 'in_layers.2',
  'time_emb_proj': 'emb_layers.1',
  'norm2': 'out_layers.0',
  'conv2': 'out_layers.3',
  'conv_shortcut': 'skip_connection',
}
# What Stable Diffusion has too, but for the temporal layers within blocks.
_SPATIAL = re.compile(
  r'(time_embedding|conv_in|conv_norm_out|conv_out|down_blocks|mid_block|up_blocks)\.'
)
_BLOCK = re.compile(
  r'(?P<side>down|mid|up)_blocks?\.(?:(?P<level>\d+)\.)?'
  r'(?P<kind>resnets|temp_convs|attentions|temp_attentions|downsamplers|upsamplers)'
  r'\.(?P<layer>\d+)\.(?P<tail>.+)'
)

# VGen adds the adapter of the image latents twice [unet_i2vgen.py, "concat += ..." in a row];
# diffusers adds it once, and its conversion script leaves the weights as they are. Here the first
# convolution holds the factor, so that the model's code needs none.
VGEN_IMAGE_GAIN = 2.0


def name_of(path: str) -> str:
  """'down_blocks_0/resnets_0/conv1/kernel' -> 'down_blocks.0.resnets.0.conv1.weight'."""
  for pattern, replacement in _RULES:
    path = re.sub(pattern, replacement, path)
  # linear_1 and linear_2 are no entries of a list.
  return tensors.torch_name(path).replace('linear_.', 'linear_')


def formats(unet: unet3d.UNet3D) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.unet3d.UNet3D`, whose levels decide on VGen's numbers."""
  return (DIFFUSERS, vgen(unet), stable_diffusion(), stable_diffusion_ldm(unet))


DIFFUSERS = tensors.Format('I2VGen-XL of diffusers')


def vgen(unet: unet3d.UNet3D) -> tensors.Format:
  """VGen's state_dict: UNetSD_I2VGen has 1,509 tensors for the 1,511 of diffusers; UNetSD_SR600, a
  model of text alone, has 1,480 of the same names."""
  has_image = any(line.kind == 'image_latents' for line in unet.conditioners)

  def slot_of(name: str) -> tensors.Slot:
    vgen_name = _ldm_name(name, unet, _LDM | _VGEN, has_temporal=True)
    if name == 'conv_in.weight' and has_image:
      channels = unet.out_channels
      return tensors.Slot(vgen_name, gains=(1.0,) * channels + (VGEN_IMAGE_GAIN,) * channels)
    if match := re.match(r'image_latents_temporal_encoder\.attn1\.to_([qkv])\.', name):
      return tensors.Slot(vgen_name, part=('qkv'.index(match[1]), 3))
    if re.search(r'(temp_attentions\.\d+|transformer_in)\.proj_(in|out)\.weight', name):
      return tensors.Slot(vgen_name, trailing_ones=1)  # A Conv1d over frames, of kernel size 1.
    return tensors.Slot(vgen_name)

  return tensors.Format('I2VGen-XL of VGen' if has_image else 'SR600 of VGen', slot_of)


def stable_diffusion() -> tensors.Format:
  """Stable Diffusion 2.x in diffusers' names: the 682 tensors that I2VGen-XL took over and the 4 of
  the time embedding."""

  def slot_of(name: str) -> tensors.Slot | None:
    if '.temp_' in name or not _SPATIAL.match(name):
      return None
    # It has four channels of noisy latents; ours has the image's besides.
    return tensors.Slot(name, num_inputs=4 if name == 'conv_in.weight' else None)

  return tensors.Format('Stable Diffusion of diffusers', slot_of)


def stable_diffusion_ldm(unet: unet3d.UNet3D) -> tensors.Format:
  """Stable Diffusion 2.x in latent-diffusion's own names, within the whole model's checkpoint."""
  in_diffusers = stable_diffusion().slot_of

  def slot_of(name: str) -> tensors.Slot | None:
    slot = in_diffusers(name)
    if slot is None:
      return None
    ldm_name = _ldm_name(name, unet, _LDM, has_temporal=False)
    return tensors.Slot(f'model.diffusion_model.{ldm_name}', num_inputs=slot.num_inputs)

  ignored = {r'(?!model\.diffusion_model\.)': 'the other networks, schedule and averages'}
  return tensors.Format('Stable Diffusion of latent-diffusion', slot_of, ignored)


def _ldm_name(
  name: str, unet: unet3d.UNet3D, outside: Mapping[str, str], has_temporal: bool
) -> str:
  """latent-diffusion numbers the layers through; VGen puts its temporal ones in between."""
  for pattern, replacement in outside.items():
    if re.match(pattern, name):
      return re.sub(f'^{pattern}', replacement, name)
  match = _BLOCK.fullmatch(name)
  if match is None:
    return name  # context_embedding, fps_embedding and whatever VGen does not have.
  side, kind, tail = match['side'], match['kind'], match['tail']
  layer, level = int(match['layer']), int(match['level'] or 0)
  per_level = unet.layers_per_block + 1
  if kind == 'downsamplers':
    place = 'op' if has_temporal else '0.op'  # VGen has it bare, not in a list of one.
    return f'input_blocks.{per_level * (level + 1)}.{place}.{tail.removeprefix("conv.")}'
  if kind == 'upsamplers':
    has_attention = unet.attention_levels[::-1][level]
    place = 1 + has_attention * (1 + has_temporal)
    return f'output_blocks.{per_level * (level + 1) - 1}.{place}.{tail}'

  place = {'resnets': 0, 'temp_convs': 0, 'attentions': 1, 'temp_attentions': 2}[kind]
  if kind == 'resnets':
    module, _, leaf = tail.rpartition('.')
    tail = f'{_RESNET[module]}.{leaf}'
  if kind == 'temp_convs':
    tail = f'temopral_conv.{tail}'  # VGen's spelling.
  if side == 'mid':
    is_second_resnet = place == 0 and layer == 1
    return f'middle_block.{2 + has_temporal if is_second_resnet else place}.{tail}'
  if side == 'down':
    return f'input_blocks.{per_level * level + layer + 1}.{place}.{tail}'
  return f'output_blocks.{per_level * level + layer}.{place}.{tail}'
