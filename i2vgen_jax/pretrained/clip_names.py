"""Names of the CLIP towers' tensors: transformers' and OpenCLIP's.

Ours are those of transformers 4's CLIPTextModel and CLIPVisionModelWithProjection. transformers 5
writes the text tower without its 'text_model.' prefix; the release and everything that reads it
have the prefix.
"""

import re
from collections.abc import Callable, Mapping

from i2vgen_jax.models import clip
from i2vgen_jax.pretrained import tensors

_CONTRAST = 'only for comparing captions with pictures'
_OTHER = 'the other tower, or another network of the same file'
_INDICES = 'counts 0, 1, 2, ..., as older versions stored it'

# transformers -> OpenCLIP [open_clip/transformer.py], within a tower.
_LAYER = {
  'layer_norm1': 'ln_1',
  'layer_norm2': 'ln_2',
  'mlp.fc1': 'mlp.c_fc',
  'mlp.fc2': 'mlp.c_proj',
  'self_attn.out_proj': 'attn.out_proj',
}
_TEXT = {
  'text_model.embeddings.token_embedding.weight': 'token_embedding.weight',
  'text_model.embeddings.position_embedding.weight': 'positional_embedding',
  'text_model.final_layer_norm.weight': 'ln_final.weight',
  'text_model.final_layer_norm.bias': 'ln_final.bias',
}
_VISION = {
  'vision_model.embeddings.class_embedding': 'class_embedding',
  'vision_model.embeddings.position_embedding.weight': 'positional_embedding',
  'vision_model.embeddings.patch_embedding.weight': 'conv1.weight',
  'vision_model.pre_layrnorm.weight': 'ln_pre.weight',
  'vision_model.pre_layrnorm.bias': 'ln_pre.bias',
  'vision_model.post_layernorm.weight': 'ln_post.weight',
  'vision_model.post_layernorm.bias': 'ln_post.bias',
  'visual_projection.weight': 'proj',
}


def text_name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.clip.CLIPText`."""
  return f'text_model.{tensors.torch_name(path)}'


def vision_name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.clip.CLIPVision`."""
  name = tensors.torch_name(path)
  return name if name.startswith('visual_projection.') else f'vision_model.{name}'


def text_formats(tower: clip.CLIPText) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.clip.CLIPText`."""
  bare = lambda name: tensors.Slot(name.removeprefix('text_model.'))  # noqa: E731
  last = f'text_model.encoder.layers.{tower.num_layers - 1}.'
  without_last = lambda name: None if name.startswith(last) else tensors.Slot(name)  # noqa: E731
  ignored = {
    r'text_model\.embeddings\.position_ids$': _INDICES,
    r'vision_model\.|visual_projection\.': _OTHER,
    r'text_projection\.|logit_scale$': _CONTRAST,
  }
  return (
    tensors.Format('CLIP text of transformers', ignored=ignored),
    tensors.Format('CLIP text of transformers 5', bare, {r'embeddings\.position_ids$': _INDICES}),
    tensors.Format(
      'CLIP of OpenCLIP',
      _open_clip_slots('', _TEXT),
      {
        r'visual\.': _OTHER,
        r'text_projection$|logit_scale$': _CONTRAST,
        r'attn_mask$': 'the causal mask, as older versions stored it',
      },
    ),
    tensors.Format(
      'CLIP within latent-diffusion',
      _open_clip_slots('cond_stage_model.model.', _TEXT),
      {
        r'(?!cond_stage_model\.model\.)': _OTHER,
        r'cond_stage_model\.model\.(text_projection|logit_scale)$': _CONTRAST,
        r'cond_stage_model\.model\.attn_mask$': 'the causal mask, as older versions stored it',
      },
    ),
    # As Stable Diffusion 2.1 and ModelScope have it in diffusers: no one reads that layer.
    tensors.Format('CLIP text of transformers but its last layer', without_last, ignored),
  )


def vision_formats(tower: clip.CLIPVision) -> tuple[tensors.Format, ...]:
  """The Formats of a `models.clip.CLIPVision`."""
  return (
    tensors.Format(
      'CLIP vision of transformers',
      ignored={
        r'vision_model\.embeddings\.position_ids$': _INDICES,
        r'text_model\.': _OTHER,
        r'text_projection\.|logit_scale$': _CONTRAST,
      },
    ),
    tensors.Format(
      'CLIP of OpenCLIP',
      _open_clip_slots('visual.', _VISION),
      {r'(?!visual\.)': _OTHER},
    ),
  )


def _open_clip_slots(prefix: str, outside: Mapping[str, str]) -> Callable[[str], tensors.Slot]:
  """Slots of a tower, whose queries, keys and values are one tensor."""

  def slot_of(name: str) -> tensors.Slot:
    match = re.match(r'(?:text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$', name)
    if match is None:
      # OpenCLIP multiplies by `proj` from the right.
      return tensors.Slot(prefix + outside[name], transposed=outside[name] == 'proj')
    layer, module, leaf = match.groups()
    block = f'{prefix}transformer.resblocks.{layer}.'
    if projection := re.fullmatch(r'self_attn\.([qkv])_proj', module):
      return tensors.Slot(f'{block}attn.in_proj_{leaf}', part=('qkv'.index(projection[1]), 3))
    return tensors.Slot(f'{block}{_LAYER[module]}.{leaf}')

  return slot_of
