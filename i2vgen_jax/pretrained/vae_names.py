"""Names of the autoencoder's tensors: diffusers' AutoencoderKL, now and before, and
latent-diffusion's."""

import re
from collections.abc import Callable

from i2vgen_jax.models import vae as vae_lib
from i2vgen_jax.pretrained import tensors

# diffusers renamed its attention layers in version 0.12; the autoencoder of Stable Diffusion 2.1
# was published before and has kept the names.
_OLD_ATTENTION = {'to_q': 'query', 'to_k': 'key', 'to_v': 'value', 'to_out.0': 'proj_attn'}

# latent-diffusion [ldm/modules/diffusionmodules/model.py] counts the decoder's levels from the
# other end; `{up}` is that count.
_LDM = (
  (r'(encoder)\.down_blocks\.(\d+)\.resnets\.(\d+)\.', r'\1.down.\2.block.\3.'),
  (r'(encoder)\.down_blocks\.(\d+)\.downsamplers\.0\.', r'\1.down.\2.downsample.'),
  (r'(decoder)\.up_blocks\.(\d+)\.resnets\.(\d+)\.', r'\1.up.{up}.block.\3.'),
  (r'(decoder)\.up_blocks\.(\d+)\.upsamplers\.0\.', r'\1.up.{up}.upsample.'),
  (r'mid_block\.resnets\.0\.', 'mid.block_1.'),
  (r'mid_block\.resnets\.1\.', 'mid.block_2.'),
  (r'mid_block\.attentions\.0\.group_norm\.', 'mid.attn_1.norm.'),
  (r'mid_block\.attentions\.0\.to_([qkv])\.', r'mid.attn_1.\1.'),
  (r'mid_block\.attentions\.0\.to_out\.0\.', 'mid.attn_1.proj_out.'),
  (r'conv_shortcut', 'nin_shortcut'),
  (r'conv_norm_out', 'norm_out'),
)


def name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.vae.AutoencoderKL`, whose modules bear its names."""
  return tensors.torch_name(path)


def formats(vae: vae_lib.AutoencoderKL) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.vae.AutoencoderKL`."""
  alone = {r'(loss|model_ema)\.': "the autoencoder's own training: discriminator, LPIPS, averages"}
  within = {r'(?!first_stage_model\.)': 'the other networks, schedule and averages'}
  return (
    tensors.Format('autoencoder of diffusers'),
    tensors.Format('autoencoder of diffusers before 0.12', _old_slot),
    tensors.Format('autoencoder of latent-diffusion', _ldm_slots(vae, ''), alone),
    tensors.Format(
      'autoencoder within latent-diffusion', _ldm_slots(vae, 'first_stage_model.'), within
    ),
  )


def _old_slot(name: str) -> tensors.Slot:
  for new, old in _OLD_ATTENTION.items():
    name = name.replace(f'.attentions.0.{new}.', f'.attentions.0.{old}.')
  return tensors.Slot(name)


def _ldm_slots(vae: vae_lib.AutoencoderKL, prefix: str) -> Callable[[str], tensors.Slot]:
  def slot_of(name: str) -> tensors.Slot:
    # latent-diffusion's attention consists of 1x1 convolutions.
    is_matrix = re.search(r'attentions\.0\.to_(q|k|v|out\.0)\.weight', name)
    level = re.match(r'decoder\.up_blocks\.(\d+)', name)
    up = len(vae.block_channels) - 1 - int(level[1]) if level else 0
    for pattern, replacement in _LDM:
      name = re.sub(pattern, replacement.replace('{up}', str(up)), name)
    return tensors.Slot(prefix + name, trailing_ones=2 if is_matrix else 0)

  return slot_of
