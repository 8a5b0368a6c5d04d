"""T5's encoder: Raffel et al. 2020, arXiv:1910.10683."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2vgen_jax.exports.torch_model.clip import Lookup

T5_ACTIVATIONS = {
  'relu': functional.relu,
  'gated-gelu': functools.partial(functional.gelu, approximate='tanh'),
}


class RmsNorm(nn.Module):
  """Divides by the root mean square, and scales; float32."""

  def __init__(self, width: int, epsilon: float) -> None:
    super().__init__()
    self.epsilon = epsilon
    self.weight = nn.Parameter(torch.empty(width))

  def forward(self, x_D: Tensor) -> Tensor:
    """(..., D) -> the same."""
    x_D = x_D.float()
    return x_D * torch.rsqrt(x_D.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class T5Attention(nn.Module):
  """Self-attention with a bias on its logits, which are not scaled."""

  def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
    super().__init__()
    inner = num_heads * head_dim
    self.num_heads = num_heads
    self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
    self.o = nn.Linear(inner, width, bias=False)

  def forward(self, x_BLD: Tensor, bias_BALM: Tensor) -> Tensor:
    """(B, L, D) -> the same."""
    q, k, v = (
      layer(x_BLD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
      for layer in (self.q, self.k, self.v)
    )
    bias = bias_BALM.to(q.dtype)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    return self.o(out.transpose(1, 2).flatten(2))


class T5FeedForward(nn.Module):
  """Widens, activates or gates, narrows."""

  def __init__(self, width: int, wide: int, activation: str) -> None:
    super().__init__()
    self.activation = T5_ACTIVATIONS[activation]
    num_matrices = 1 + activation.startswith('gated-')
    self.wi = nn.ModuleList(nn.Linear(width, wide, bias=False) for _ in range(num_matrices))
    self.wo = nn.Linear(wide, width, bias=False)

  def forward(self, x_BLD: Tensor) -> Tensor:
    """(B, L, D) -> the same."""
    h = self.activation(self.wi[0](x_BLD))
    return self.wo(h * self.wi[1](x_BLD) if len(self.wi) > 1 else h)


class T5Block(nn.Module):
  """Attention and a feed-forward, each normed before, and added after in float32."""

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    width, epsilon = config['hidden_size'], config['epsilon']
    self.attention_norm, self.feed_forward_norm = RmsNorm(width, epsilon), RmsNorm(width, epsilon)
    self.attention = T5Attention(width, config['num_heads'], config['head_dim'])
    self.feed_forward = T5FeedForward(width, config['intermediate_size'], config['activation'])

  def forward(self, x_BLD: Tensor, bias_BALM: Tensor) -> Tensor:
    """(B, L, D) -> the same."""
    dtype = self.attention.q.weight.dtype
    x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD).to(dtype), bias_BALM).float()
    return x_BLD + self.feed_forward(self.feed_forward_norm(x_BLD).to(dtype)).float()


class T5Encoder(nn.Module):
  """Token ids to states, float32 (B, L, D), zero where a caption is padded (id 0).

  Args:
    config: the entry 't5' of config.json.
  """

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    self.num_buckets = config['relative_position_buckets']
    self.max_distance = config['max_distance']
    self.token_embedding = Lookup(config['vocab_size'], config['hidden_size'])
    self.position_bias = Lookup(self.num_buckets, config['num_heads'])
    self.block = nn.ModuleList(T5Block(config) for _ in range(config['num_layers']))
    self.final_norm = RmsNorm(config['hidden_size'], config['epsilon'])

  def forward(self, token_ids_BL: Tensor) -> Tensor:
    """(B, L) -> (B, L, D)."""
    is_word_BL = token_ids_BL != 0
    buckets_LM = self._buckets(token_ids_BL.shape[1]).to(token_ids_BL.device)
    bias_ALM = self.position_bias(buckets_LM).permute(2, 0, 1)
    # The lowest float, not -inf: a row without a key softens to the mean, not to NaN.
    lowest = torch.finfo(bias_ALM.dtype).min
    bias_BALM = torch.where(is_word_BL[:, None, None], bias_ALM, lowest)
    x = self.token_embedding(token_ids_BL).float()
    for block in self.block:
      x = block(x, bias_BALM)
    return self.final_norm(x).float() * is_word_BL[..., None]

  def _buckets(self, length: int) -> Tensor:
    """(L, M) bucket of each key's distance from each query: near ones each their own, far ones by
    their logarithm."""
    half = self.num_buckets // 2
    exact = half // 2
    places = torch.arange(length)
    offset = places[None] - places[:, None]
    distance = offset.abs()
    log = torch.log(distance.clamp(min=exact).float() / exact)
    far = exact + (log / math.log(self.max_distance / exact) * (half - exact)).int()
    return torch.where(distance < exact, distance, far.clamp(max=half - 1)) + half * (offset > 0)
