"""The autoencoder of Stable Diffusion: Rombach et al. 2022, arXiv:2112.10752, Sec. 3.1."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class VaeResBlock(nn.Module):
  """Norm, SiLU, convolution, twice; plus the input."""

  def __init__(self, inputs: int, channels: int, groups: int) -> None:
    super().__init__()
    self.norm1 = nn.GroupNorm(groups, inputs, eps=1e-6)
    self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
    self.norm2 = nn.GroupNorm(groups, channels, eps=1e-6)
    self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
    self.conv_shortcut = nn.Conv2d(inputs, channels, 1) if inputs != channels else nn.Identity()

  def forward(self, x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, channels, H, W)."""
    h = self.conv1(functional.silu(self.norm1(x_NCHW)))
    return self.conv_shortcut(x_NCHW) + self.conv2(functional.silu(self.norm2(h)))


class VaeAttention(nn.Module):
  """Self-attention of one head over all pixels."""

  def __init__(self, channels: int, groups: int) -> None:
    super().__init__()
    self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
    self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
    self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

  def forward(self, x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> the same."""
    h_NSC = self.group_norm(x_NCHW).flatten(2).transpose(1, 2)
    q, k, v = (layer(h_NSC)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
    h_NSC = self.to_out[0](functional.scaled_dot_product_attention(q, k, v)[:, 0])
    return x_NCHW + h_NSC.transpose(1, 2).reshape(x_NCHW.shape)


class VaeResample(nn.Module):
  """Halves, padding below and to the right only, or doubles by repetition; with a convolution."""

  def __init__(self, channels: int, halves: bool) -> None:
    super().__init__()
    self.halves = halves
    self.conv = nn.Conv2d(channels, channels, 3, stride=1 + halves, padding=1 - halves)

  def forward(self, x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H', W')."""
    if self.halves:
      return self.conv(functional.pad(x_NCHW, (0, 1, 0, 1)))
    return self.conv(x_NCHW.repeat_interleave(2, 2).repeat_interleave(2, 3))


class VaeLevel(nn.Module):
  """Residual blocks, with attention after the first if `attends`, then a layer that resamples."""

  def __init__(self, widths: Sequence[int], groups: int, attends: bool, resampling: str) -> None:
    super().__init__()
    self.resnets = nn.ModuleList(map(lambda i, o: VaeResBlock(i, o, groups), widths, widths[1:]))
    self.attentions = nn.ModuleList([VaeAttention(widths[1], groups)] if attends else [])
    if resampling:
      layer = VaeResample(widths[-1], halves=resampling == 'down')
      self.add_module(f'{resampling}samplers', nn.ModuleList([layer]))

  def forward(self, x_NCHW: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, channels, H', W')."""
    for i, block in enumerate(self.resnets):
      x_NCHW = block(x_NCHW)
      if i < len(self.attentions):
        x_NCHW = self.attentions[i](x_NCHW)
    for name in ('downsamplers', 'upsamplers'):
      if hasattr(self, name):
        x_NCHW = self.get_submodule(f'{name}.0')(x_NCHW)
    return x_NCHW


class VaeCoder(nn.Module):
  """Encoder or decoder: levels, with the block that attends before the decoder's and after the
  encoder's."""

  def __init__(self, config: Mapping[str, Any], inputs: int, outputs: int, decodes: bool) -> None:
    super().__init__()
    channels, groups = list(config['block_channels']), config['norm_groups']
    channels = channels[::-1] if decodes else channels
    self.decodes = decodes
    self.conv_in = nn.Conv2d(inputs, channels[0], 3, padding=1)
    levels, last = nn.ModuleList(), channels[0]
    for i, width in enumerate(channels):
      resampling = ('up' if decodes else 'down') if i < len(channels) - 1 else ''
      widths = [last] + [width] * (config['layers_per_block'] + decodes)
      levels.append(VaeLevel(widths, groups, False, resampling))
      last = width
    middle = channels[0] if decodes else last
    self.mid_block = VaeLevel([middle] * 3, groups, True, '')
    self.add_module('up_blocks' if decodes else 'down_blocks', levels)
    self.conv_norm_out = nn.GroupNorm(groups, last, eps=1e-6)
    self.conv_out = nn.Conv2d(last, outputs, 3, padding=1)

  def forward(self, x_NCHW: Tensor) -> Tensor:
    """(N, inputs, H, W) -> (N, outputs, H', W')."""
    levels = self.get_submodule('up_blocks' if self.decodes else 'down_blocks').children()
    order = [self.mid_block, *levels] if self.decodes else [*levels, self.mid_block]
    x_NCHW = nn.Sequential(self.conv_in, *order)(x_NCHW)
    return self.conv_out(functional.silu(self.conv_norm_out(x_NCHW)))


class AutoencoderKL(nn.Module):
  """Images to Gaussian latents and back, in the VAE's own units.

  Args:
    config: the entry 'vae' of config.json.
  """

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    self.config = config
    latents = config['latent_channels']
    self.downsampling = 2 ** (len(config['block_channels']) - 1)
    self.encoder = VaeCoder(config, config['in_channels'], 2 * latents, decodes=False)
    self.quant_conv = nn.Conv2d(2 * latents, 2 * latents, 1)
    self.post_quant_conv = nn.Conv2d(latents, latents, 1)
    self.decoder = VaeCoder(config, latents, config['in_channels'], decodes=True)

  def encode(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of images in [-1, 1], H and W multiples of `downsampling`."""
    mean, logvar = self.quant_conv(self.encoder(images_NCHW)).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)

  def decode(self, latents_NCHW: Tensor) -> Tensor:
    """Images, about in [-1, 1]."""
    return self.decoder(self.post_quant_conv(latents_NCHW)).float()

  def encode_video(self, video_BFHWC: Tensor) -> Tensor:
    """Scaled latents, (B, C, F, h, w), of uint8 pixels: the posterior's mean."""
    dtype = self.quant_conv.weight.dtype
    encode = lambda x: self.encode((x.permute(0, 3, 1, 2).float() / 127.5 - 1).to(dtype))[0]  # noqa: E731
    return self._by_frames(encode, video_BFHWC).transpose(1, 2) * self.config['scaling_factor']

  def decode_video(self, latents_BCFHW: Tensor) -> Tensor:
    """uint8 pixels, (B, F, H, W, 3), of scaled latents."""
    latents = (latents_BCFHW / self.config['scaling_factor']).to(self.quant_conv.weight.dtype)
    pixels = self._by_frames(self.decode, latents.transpose(1, 2))
    return ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2)

  def _by_frames(self, function: Callable[[Tensor], Tensor], x_BF: Tensor) -> Tensor:
    """Applies a function of images to `frames_per_chunk` frames at a time."""
    parts = x_BF.flatten(0, 1).split(self.config['frames_per_chunk'])
    return torch.cat([function(part) for part in parts]).unflatten(0, x_BF.shape[:2])
