"""Layers of the U-Net. Videos are (B, F, C, H, W) between them.

Dimension key: B batch, F frames, C channels, H W latent height and width, S = H*W, N = B*F, L
tokens, D context width, E embedding width.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def per_frame(layer: Callable[[Tensor], Tensor], x_BFCHW: Tensor) -> Tensor:
  """Applies a layer of images to every frame."""
  return layer(x_BFCHW.flatten(0, 1)).unflatten(0, x_BFCHW.shape[:2])


def over_frames(layer: Callable[[Tensor], Tensor], x_BFCHW: Tensor) -> Tensor:
  """Applies a layer of (B, C, F, H, W), which sees all frames at once."""
  return layer(x_BFCHW.transpose(1, 2)).transpose(1, 2)


def sinusoid(positions_B: Tensor, width: int) -> Tensor:
  """(B,) -> (B, width): cosines, then sines, of frequencies 10000^(-i / (width / 2)); float32."""
  steps = torch.arange(width // 2, dtype=torch.float32, device=positions_B.device)
  angles = positions_B.float()[:, None] * torch.exp(-math.log(10_000) * steps / (width // 2))
  return torch.cat([angles.cos(), angles.sin()], -1)


class Attention(nn.Module):
  """Multi-head attention of a sequence over itself, or over a context of another width."""

  def __init__(
    self, width: int, context_width: int, num_heads: int, head_dim: int, dropout: float = 0.0
  ) -> None:
    super().__init__()
    inner = num_heads * head_dim
    self.num_heads = num_heads
    self.to_q = nn.Linear(width, inner, bias=False)
    self.to_k = nn.Linear(context_width, inner, bias=False)
    self.to_v = nn.Linear(context_width, inner, bias=False)
    self.to_out = nn.Sequential(nn.Linear(inner, width), nn.Dropout(dropout))

  def forward(self, x_BLC: Tensor, context_BLD: Tensor | None = None) -> Tensor:
    """(B, L, C) -> the same."""
    context = x_BLC if context_BLD is None else context_BLD
    q, k, v = (
      layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
      for layer, x in ((self.to_q, x_BLC), (self.to_k, context), (self.to_v, context))
    )
    return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
  """Linear, GELU, linear; four times as wide inside. Gated: value * gelu(gate)."""

  def __init__(self, channels: int, gated: bool = True, dropout: float = 0.0) -> None:
    super().__init__()
    self.gated = gated
    self.net_0_proj = nn.Linear(channels, 4 * channels * (1 + gated))
    self.dropout = nn.Dropout(dropout)
    self.net_2 = nn.Linear(4 * channels, channels)

  def forward(self, x_C: Tensor) -> Tensor:
    """(..., C) -> the same."""
    h = self.net_0_proj(x_C)
    if self.gated:
      value, gate = h.chunk(2, -1)
      h = value * functional.gelu(gate)
    else:
      h = functional.gelu(h)
    return self.net_2(self.dropout(h))


class TransformerBlock(nn.Module):
  """Self-attention within rows, attention to the context or once more within rows, feed-forward."""

  def __init__(self, width: int, context_width: int | None, num_heads: int, head_dim: int) -> None:
    super().__init__()
    self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
    self.attn1 = Attention(width, width, num_heads, head_dim)
    self.attn2 = Attention(width, context_width or width, num_heads, head_dim)
    self.ff = FeedForward(width)

  def forward(self, x_BRLC: Tensor, context_BLD: Tensor | None = None) -> Tensor:
    """(B, rows, L, C) -> the same; all rows of a video see one context."""
    x_BRLC = x_BRLC + self.attn1(self.norm1(x_BRLC).flatten(0, 1)).view_as(x_BRLC)
    h = self.norm2(x_BRLC)
    h = h.flatten(0, 1) if context_BLD is None else h.flatten(1, 2)
    x_BRLC = x_BRLC + self.attn2(h, context_BLD).view_as(x_BRLC)
    return x_BRLC + self.ff(self.norm3(x_BRLC))


class Transformer(nn.Module):
  """A transformer added to a video: of each frame's pixels with a context, or of each pixel's
  frames without one."""

  def __init__(
    self, channels: int, num_heads: int, head_dim: int, groups: int, context_dim: int | None = None
  ) -> None:
    super().__init__()
    inner = num_heads * head_dim
    self.over_frames = context_dim is None
    self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
    self.proj_in = nn.Linear(channels, inner)
    self.transformer_blocks = nn.ModuleList(
      [TransformerBlock(inner, context_dim, num_heads, head_dim)]
    )
    self.proj_out = nn.Linear(inner, channels)

  def forward(self, x_BFCHW: Tensor, context_BLD: Tensor | None = None) -> Tensor:
    """(B, F, C, H, W) -> the same."""
    h = (over_frames if self.over_frames else per_frame)(self.norm, x_BFCHW)
    h_BFSC = h.flatten(3).transpose(2, 3)
    h = self.proj_in(h_BFSC.transpose(1, 2) if self.over_frames else h_BFSC)
    h = self.proj_out(self.transformer_blocks[0](h, context_BLD))
    h_BFSC = h.transpose(1, 2) if self.over_frames else h
    return x_BFCHW + h_BFSC.transpose(2, 3).reshape(x_BFCHW.shape)


class TemporalConv(nn.Module):
  """Four convolutions over time, added to the input."""

  def __init__(self, channels: int, groups: int, dropout: float) -> None:
    super().__init__()
    for i in range(1, 5):
      layers = [nn.GroupNorm(groups, channels), nn.SiLU()]
      layers += [nn.Dropout(dropout)] if i > 1 else []
      conv = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
      self.add_module(f'conv{i}', nn.Sequential(*layers, conv))

  def forward(self, x_BFCHW: Tensor) -> Tensor:
    """(B, F, C, H, W) -> the same."""
    return x_BFCHW + over_frames(nn.Sequential(*self.children()), x_BFCHW)


class ResBlock(nn.Module):
  """Two convolutions of each frame, the embedding added between, a skip; then TemporalConv."""

  def __init__(self, inputs: int, channels: int, embedding: int, groups: int, drop: float) -> None:
    super().__init__()
    self.norm1 = nn.GroupNorm(groups, inputs)
    self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
    self.time_emb_proj = nn.Linear(embedding, channels)
    self.norm2 = nn.GroupNorm(groups, channels)
    self.dropout = nn.Dropout(drop)
    self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
    self.conv_shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()
    self.temp_conv = TemporalConv(channels, groups, drop)

  def forward(self, x_BFCHW: Tensor, embedding_BE: Tensor) -> Tensor:
    """(B, F, C, H, W) and (B, E) -> (B, F, channels, H, W)."""
    x_NCHW = x_BFCHW.flatten(0, 1)
    h = self.conv1(functional.silu(self.norm1(x_NCHW)))
    shift_BC = self.time_emb_proj(functional.silu(embedding_BE))
    h = h + shift_BC.repeat_interleave(x_BFCHW.shape[1], 0)[..., None, None]
    h = self.conv2(self.dropout(functional.silu(self.norm2(h))))
    y_NCHW = self.conv_shortcut(x_NCHW) + h
    return self.temp_conv(y_NCHW.unflatten(0, x_BFCHW.shape[:2]))
