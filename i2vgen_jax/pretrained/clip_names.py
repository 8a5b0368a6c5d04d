"""Tensor names of transformers 4's CLIPTextModel and CLIPVisionModelWithProjection.

transformers 5 writes the text tower without its 'text_model.' prefix; the release and everything
that reads it have the prefix.
"""

from i2vgen_jax.pretrained import tensors


def text_name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.clip.CLIPText`."""
  return f'text_model.{tensors.torch_name(path)}'


def vision_name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.clip.CLIPVision`."""
  name = tensors.torch_name(path)
  return name if name.startswith('visual_projection.') else f'vision_model.{name}'
