"""CLIP's text and vision towers: Radford et al. 2021, arXiv:2103.00020."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLIP_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
  'gelu': functional.gelu,
  'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
}


class Lookup(nn.Module):
  """A vector for each id; unlike nn.Embedding it draws none, for they are read."""

  def __init__(self, num_ids: int, width: int) -> None:
    super().__init__()
    self.weight = nn.Parameter(torch.empty(num_ids, width))

  def forward(self, ids: Tensor) -> Tensor:
    """(...) -> (..., width)."""
    return functional.embedding(ids, self.weight)


class ClipLayer(nn.Module):
  """Attention and a two-layer perceptron, each normed before and added after."""

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    width = config['hidden_size']
    self.num_heads, self.activation = config['num_heads'], CLIP_ACTIVATIONS[config['activation']]
    self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
    names = ('q_proj', 'k_proj', 'v_proj', 'out_proj')
    self.self_attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
    self.mlp = nn.ModuleDict(
      dict(
        fc1=nn.Linear(width, config['intermediate_size']),
        fc2=nn.Linear(config['intermediate_size'], width),
      )
    )

  def forward(self, x_BLD: Tensor, is_causal: bool) -> Tensor:
    """(B, L, D) -> the same."""
    h, attention = self.layer_norm1(x_BLD), self.self_attn
    q, k, v = (
      attention[name](h).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
      for name in ('q_proj', 'k_proj', 'v_proj')
    )
    h = functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    x_BLD = x_BLD + attention['out_proj'](h.transpose(1, 2).flatten(2))
    h = self.activation(self.mlp['fc1'](self.layer_norm2(x_BLD)))
    return x_BLD + self.mlp['fc2'](h)


class ClipEncoder(nn.Module):
  """A stack of layers."""

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config['num_layers']))

  def forward(self, x_BLD: Tensor, is_causal: bool = False, skip_layers: int = 0) -> Tensor:
    """(B, L, D) -> the same, before the last `skip_layers` layers."""
    for layer in list(self.layers)[: len(self.layers) - skip_layers]:
      x_BLD = layer(x_BLD, is_causal)
    return x_BLD


class TextEmbeddings(nn.Module):
  """Word vectors plus position vectors."""

  def __init__(self, vocab_size: int, max_length: int, width: int) -> None:
    super().__init__()
    self.token_embedding = Lookup(vocab_size, width)
    self.position_embedding = Lookup(max_length, width)

  def forward(self, token_ids_BL: Tensor) -> Tensor:
    """(B, L) -> (B, L, D)."""
    positions_LD = self.position_embedding.weight[: token_ids_BL.shape[1]]
    return self.token_embedding(token_ids_BL) + positions_LD


class ClipText(nn.Module):
  """Token ids to states before the last layer, normed: float32 (B, L, D). Padding is attended to.

  Args:
    config: the entry 'text_encoder' of config.json.
  """

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    width = config['hidden_size']
    self.embeddings = TextEmbeddings(config['vocab_size'], config['max_length'], width)
    self.encoder = ClipEncoder(config)
    self.final_layer_norm = nn.LayerNorm(width)

  def forward(self, token_ids_BL: Tensor) -> Tensor:
    """(B, L) -> (B, L, D)."""
    x = self.encoder(self.embeddings(token_ids_BL), is_causal=True, skip_layers=1)
    return self.final_layer_norm(x).float()


class VisionEmbeddings(nn.Module):
  """A class vector and one per patch, plus position vectors."""

  def __init__(self, width: int, patch_size: int, num_patches: int) -> None:
    super().__init__()
    self.class_embedding = nn.Parameter(torch.empty(width))
    self.patch_embedding = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
    self.position_embedding = Lookup(1 + num_patches, width)

  def forward(self, pixels_BCHW: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 1 + patches, D), patches row by row."""
    x = self.patch_embedding(pixels_BCHW).flatten(2).transpose(1, 2)
    x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
    return x + self.position_embedding.weight


class ClipVision(nn.Module):
  """uint8 squares to one vector each, pooled and projected: float32 (B, V).

  Args:
    config: the entry 'image_encoder' of config.json.
  """

  MEAN = (0.48145466, 0.4578275, 0.40821073)
  DEVIATION = (0.26862954, 0.26130258, 0.27577711)

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    width, patch_size = config['hidden_size'], config['patch_size']
    self.image_size = config['image_size']
    self.embeddings = VisionEmbeddings(width, patch_size, (self.image_size // patch_size) ** 2)
    self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
    self.encoder = ClipEncoder(config)
    self.visual_projection = nn.Linear(width, config['projection_dim'], bias=False)

  def forward(self, pixels_BHWC: Tensor) -> Tensor:
    """(B, image_size, image_size, 3) -> (B, V)."""
    mean, deviation = torch.tensor([self.MEAN, self.DEVIATION], device=pixels_BHWC.device)
    x = ((pixels_BHWC.float() / 255 - mean) / deviation).permute(0, 3, 1, 2)
    x = self.pre_layrnorm(self.embeddings(x.to(self.visual_projection.weight.dtype)))
    return self.visual_projection(self.post_layernorm(self.encoder(x)[:, 0])).float()
