"""The video U-Net of I2VGen-XL: 2-D, with temporal layers (Zhang et al. 2023, arXiv:2311.04145)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2vgen_jax.exports.torch_model.conditioners import CONDITIONERS, Widths
from i2vgen_jax.exports.torch_model.layers import ResBlock, Transformer, per_frame, sinusoid


class Downsample(nn.Module):
  """Halves frames by a convolution, after `margin` rows of zeros are added above and below."""

  def __init__(self, channels: int, margin: int) -> None:
    super().__init__()
    self.margin = margin
    self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

  def forward(self, x_BFCHW: Tensor) -> Tensor:
    """(B, F, C, H, W) -> (B, F, C, ceil(H / 2) + margin, ceil(W / 2))."""
    return per_frame(self.conv, functional.pad(x_BFCHW, (0, 0, self.margin, self.margin)))


class Upsample(nn.Module):
  """Doubles frames by repetition, cuts `margin` rows off above and below, and convolves."""

  def __init__(self, channels: int, margin: int) -> None:
    super().__init__()
    self.margin = margin
    self.conv = nn.Conv2d(channels, channels, 3, padding=1)

  def forward(self, x_BFCHW: Tensor, height: int, width: int) -> Tensor:
    """(B, F, C, H, W) -> (B, F, C, height, width), sizes of which Downsample makes H and W."""
    x_BFCHW = x_BFCHW.repeat_interleave(2, 3).repeat_interleave(2, 4)
    return per_frame(self.conv, x_BFCHW[..., self.margin : self.margin + height, :width])


class Level(nn.Module):
  """Layers of one resolution: ResBlocks, each followed by two transformers if `attends`.

  Args:
    config: of the U-Net.
    inputs: channels that each layer takes.
    channels: that each layer gives.
    attends: whether there are transformers.
  """

  def __init__(
    self, config: Mapping[str, Any], inputs: Sequence[int], channels: int, attends: bool
  ) -> None:
    super().__init__()
    groups, head_dim = config['norm_groups'], config['head_dim']
    embedding, drop = 4 * config['block_channels'][0], config['dropout']
    self.resnets = nn.ModuleList(
      ResBlock(width, channels, embedding, groups, drop) for width in inputs
    )
    sizes = (channels, channels // head_dim, head_dim, groups)
    self.attentions, self.temp_attentions = (
      nn.ModuleList(Transformer(*sizes, dim) for _ in inputs if attends)
      for dim in (config['context_dim'], None)
    )

  def layer(self, i: int, x: Tensor, embedding_BE: Tensor, context_BLD: Tensor) -> Tensor:
    """(B, F, C, H, W) -> (B, F, channels, H, W)."""
    x = self.resnets[i](x, embedding_BE)
    if i < len(self.attentions):
      x = self.temp_attentions[i](self.attentions[i](x, context_BLD))
    return x


class DownBlock(Level):
  """A level of the encoder, which halves at its end but for the last."""

  def __init__(self, *level: Any, margin: int, is_last: bool) -> None:
    super().__init__(*level)
    channels = level[2]
    self.downsamplers = nn.ModuleList([] if is_last else [Downsample(channels, margin)])

  def forward(self, x: Tensor, *conditions: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output, and the skips."""
    skips = []
    for i in range(len(self.resnets)):
      x = self.layer(i, x, *conditions)
      skips.append(x)
    for downsample in self.downsamplers:
      x = downsample(x)
      skips.append(x)
    return x, skips


class MidBlock(Level):
  """A layer with attention and a ResBlock, at the lowest resolution."""

  def __init__(self, config: Mapping[str, Any], channels: int) -> None:
    super().__init__(config, [channels] * 2, channels, True)
    del self.attentions[1], self.temp_attentions[1]

  def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
    """(B, F, C, H, W) -> the same."""
    return self.layer(1, self.layer(0, x, *conditions), *conditions)


class UpBlock(Level):
  """A level of the decoder: each layer is fed a skip; it doubles at its end but for the last."""

  def __init__(self, *level: Any, margin: int, is_last: bool) -> None:
    super().__init__(*level)
    channels = level[2]
    self.upsamplers = nn.ModuleList([] if is_last else [Upsample(channels, margin)])

  def forward(
    self, x: Tensor, skips: list[Tensor], gains: list[tuple[float, float]], *conditions: Tensor
  ) -> Tensor:
    """(B, F, C, H, W) -> (B, F, channels, H', W'); it takes its skips, and gains, off the lists."""
    for i in range(len(self.resnets)):
      skip = skips.pop()
      if gains:
        x, skip = free_u(x, skip, *gains.pop(0))
      x = self.layer(i, torch.cat([x, skip], 2), *conditions)
    for upsample in self.upsamplers:
      x = upsample(x, *skips[-1].shape[-2:])
    return x


def free_u(x: Tensor, skip: Tensor, trunk_gain: float, skip_gain: float) -> tuple[Tensor, Tensor]:
  """Half of the trunk's channels, and the skip's frequencies 0 and -1, times their gains.

  Si et al. 2023, arXiv:2309.11497. Both are (B, F, C, H, W).
  """
  half = x.shape[2] // 2
  x = torch.cat([x[:, :, :half] * trunk_gain, x[:, :, half:]], 2)
  mask = torch.zeros(skip.shape[-2:], device=skip.device)
  for row in (0, -1):
    mask[row, 0] = mask[row, -1] = 1
  low = torch.fft.ifft2(torch.fft.fft2(skip.float()) * mask).real
  return x, skip + ((skip_gain - 1) * low).to(skip.dtype)


class TimeEmbedding(nn.Module):
  """A timestep's sinusoid through two linear layers."""

  def __init__(self, width: int) -> None:
    super().__init__()
    self.linear_1 = nn.Linear(width // 4, width)
    self.linear_2 = nn.Linear(width, width)

  def forward(self, timesteps_B: Tensor) -> Tensor:
    """(B,) -> (B, E)."""
    h = sinusoid(timesteps_B, self.linear_1.in_features).to(self.linear_1.weight.dtype)
    return self.linear_2(functional.silu(self.linear_1(h)))


class UNet3D(nn.Module):
  """Predicts noise, velocity or sample from noisy latents, timestep and conditioning.

  Args:
    config: the entry 'unet' of config.json.
  """

  def __init__(self, config: Mapping[str, Any]) -> None:
    super().__init__()
    self.config = config
    channels, latents = config['block_channels'], config['out_channels']
    per_level, groups, head_dim = (
      config[name] for name in ('layers_per_block', 'norm_groups', 'head_dim')
    )
    self._add_conditioners()
    routes = [CONDITIONERS[kind].route for kind in self.conditioners]
    self.time_embedding = TimeEmbedding(4 * channels[0])
    self.conv_in = nn.Conv2d(latents * (1 + routes.count('concat')), channels[0], 3, padding=1)
    self.transformer_in = Transformer(channels[0], config['temporal_in_heads'], head_dim, groups)
    self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
    levels = list(zip(channels, config['attention_levels'], strict=True))
    skips, last, margin = [channels[0]], channels[0], config['row_margin']
    for i, (width, attends) in enumerate(levels):
      inputs, is_last = [last] + [width] * (per_level - 1), i == len(levels) - 1
      block = DownBlock(config, inputs, width, attends, margin=margin, is_last=is_last)
      skips += [width] * (per_level + (not is_last))
      self.down_blocks.append(block)
      last = width
    self.mid_block = MidBlock(config, last)
    for i, (width, attends) in reversed(list(enumerate(levels))):
      inputs = [(width if j else last) + skips.pop() for j in range(per_level + 1)]
      block = UpBlock(config, inputs, width, attends, margin=margin, is_last=i == 0)
      self.up_blocks.append(block)
      last = width
    self.conv_norm_out = nn.GroupNorm(groups, channels[0])
    self.conv_out = nn.Conv2d(channels[0], latents, 3, padding=1)

  def _add_conditioners(self) -> None:
    config = self.config
    self.conditioners = [line['kind'] for line in config['conditioners']]
    widths = Widths(
      config['context_dim'],
      config['out_channels'],
      4 * config['block_channels'][0],
      **config['signal_widths'],
      dropout=config['dropout'] / 2,
    )
    for line in config['conditioners']:
      fields = {name: value for name, value in line.items() if name != 'kind'}
      self.add_module(line['kind'], CONDITIONERS[line['kind']](widths, **fields))

  @property
  def signals(self) -> list[str]:
    """Names of the entries of `conditioning`."""
    return sorted({name for kind in self.conditioners for name in CONDITIONERS[kind].signals})

  def forward(
    self, noisy_BCFHW: Tensor, timesteps_B: Tensor, conditioning: Mapping[str, Tensor]
  ) -> Tensor:
    """Returns the prediction, float32, shaped as the latents.

    Args:
      noisy_BCFHW: latents of any F >= 1, H and W.
      timesteps_B: 0 to T - 1.
      conditioning: by signal: text and t5_text (B, L, width), image_embedding (B, V),
        image_latents and last_frame_latents (B, C, H, W), fps (B,), motion (B, 2).
    """
    x, *conditions = self._embed(noisy_BCFHW, timesteps_B, conditioning)
    x = self.transformer_in(per_frame(self.conv_in, x))
    skips = [x]
    for block in self.down_blocks:
      x, new_skips = block(x, *conditions)
      skips += new_skips
    x = self.mid_block(x, *conditions)
    gains = list(self.config['free_u'])
    for block in self.up_blocks:
      x = block(x, skips, gains, *conditions)
    x = per_frame(lambda h: self.conv_out(functional.silu(self.conv_norm_out(h))), x)
    return x.transpose(1, 2).float()

  def _embed(
    self, noisy_BCFHW: Tensor, timesteps_B: Tensor, conditioning: Mapping[str, Tensor]
  ) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the conditioners: (latents with what lies beside them, embedding, context)."""
    dtype = self.conv_in.weight.dtype
    routes: dict[str, list[Tensor]] = dict(
      noise=[noisy_BCFHW.transpose(1, 2).to(dtype)],
      concat=[],
      embedding=[self.time_embedding(timesteps_B)],
      context=[],
    )
    for kind in self.conditioners:
      values = [conditioning[name].to(dtype) for name in CONDITIONERS[kind].signals]
      output = self.get_submodule(kind)(*values, noisy_BCFHW.shape[2])
      routes[CONDITIONERS[kind].route].append(output)
    x_BFCHW = torch.cat([torch.stack(routes['noise']).sum(0), *routes['concat']], 2)
    return x_BFCHW, torch.stack(routes['embedding']).sum(0), torch.cat(routes['context'], 1)
