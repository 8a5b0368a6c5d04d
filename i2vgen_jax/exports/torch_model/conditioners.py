"""What the U-Net is conditioned on: a class for each kind of a config's `unet.conditioners`.

A class says which signals it reads, and by which route its output enters: 'context' (tokens for
cross-attention), 'concat' (channels beside the noisy latents), 'noise' (added to them), 'embedding'
(added to the timestep's).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2vgen_jax.exports.torch_model.layers import Attention, FeedForward, per_frame, sinusoid


class Widths(NamedTuple):
  """What a conditioner reads and writes: widths of routes and signals, and its dropout."""

  context: int
  latents: int
  embedding: int
  image_embedding: int
  t5_text: int
  dropout: float


class Conditioner(nn.Module):
  """A module that turns signals, in their order, and a number of frames into one route."""

  signals: tuple[str, ...]
  route: str

  def __init__(self, widths: Widths) -> None:
    super().__init__()


class Text(Conditioner):
  """CLIP's caption tokens, (B, L, D), unchanged."""

  signals, route = ('text',), 'context'

  def forward(self, text_BLD: Tensor, num_frames: int) -> Tensor:
    """(B, L, D) -> the same."""
    return text_BLD


class T5Text(Conditioner):
  """T5's caption tokens, projected to the context's width."""

  signals, route = ('t5_text',), 'context'

  def __init__(self, widths: Widths) -> None:
    super().__init__(widths)
    self.projection = nn.Linear(widths.t5_text, widths.context, bias=False)

  def forward(self, text_BLD: Tensor, num_frames: int) -> Tensor:
    """(B, L, T5's width) -> (B, L, D)."""
    return self.projection(text_BLD)


class ImageTokens(Conditioner):
  """CLIP's vector of the image to a few context tokens."""

  signals, route = ('image_embedding',), 'context'

  def __init__(self, widths: Widths, num_tokens: int = 4) -> None:
    super().__init__(widths)
    self.num_tokens = num_tokens
    self.linear = nn.Sequential(
      nn.Linear(widths.image_embedding, widths.embedding),
      nn.SiLU(),
      nn.Linear(widths.embedding, num_tokens * widths.context),
    )

  def forward(self, embedding_BV: Tensor, num_frames: int) -> Tensor:
    """(B, V) -> (B, num_tokens, D)."""
    return self.linear(embedding_BV).unflatten(-1, (self.num_tokens, -1))


class ImageLatentTokens(Conditioner):
  """The image's latents, of any size, to (pool_size / 4)^2 context tokens."""

  signals, route = ('image_latents',), 'context'

  def __init__(self, widths: Widths, pool_size: int = 32) -> None:
    super().__init__(widths)
    channels = widths.latents
    self.conv = nn.Sequential(
      nn.Conv2d(channels, 8 * channels, 3, padding=1),
      nn.SiLU(),
      nn.AdaptiveAvgPool2d(pool_size),
      nn.Conv2d(8 * channels, 16 * channels, 3, stride=2, padding=1),
      nn.SiLU(),
      nn.Conv2d(16 * channels, widths.context, 3, stride=2, padding=1),
    )

  def forward(self, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, C, H, W) -> (B, L, D)."""
    return self.conv(latents_BCHW).flatten(2).transpose(1, 2)


class GlobalImageTokens(Conditioner):
  """The paper's semantics: CLIP's vector plus a learned one of the latents, to context tokens."""

  signals, route = ('image_embedding', 'image_latents'), 'context'

  def __init__(self, widths: Widths, num_tokens: int = 4, pool_size: int = 32) -> None:
    super().__init__(widths)
    as_clip = widths._replace(context=widths.image_embedding)
    self.global_encoder = ImageLatentTokens(as_clip, pool_size)
    self.tokens = ImageTokens(widths, num_tokens)

  def forward(self, embedding_BV: Tensor, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, V) and (B, C, H, W) -> (B, num_tokens, D)."""
    learned_BV = self.global_encoder(latents_BCHW, num_frames).mean(1)
    return self.tokens(embedding_BV + learned_BV, num_frames)


class ImageLatents(Conditioner):
  """The first frame's latents as frame 0 of channels beside the noise; the others mark time."""

  signals, route = ('image_latents',), 'concat'

  def __init__(self, widths: Widths) -> None:
    super().__init__(widths)
    channels = widths.latents
    self.proj_in = nn.Sequential(
      nn.Conv2d(channels, 4 * channels, 3, padding=1),
      nn.SiLU(),
      nn.Conv2d(4 * channels, 4 * channels, 3, padding=1),
      nn.SiLU(),
      nn.Conv2d(4 * channels, channels, 3, padding=1),
    )
    self.temporal_encoder = FrameAdapter(channels, widths.dropout)

  def forward(self, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, C, H, W) -> (B, F, C, H, W)."""
    return self.temporal_encoder(per_frame(self.proj_in, self.sequence(latents_BCHW, num_frames)))

  def sequence(self, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, C, H, W) -> (B, F, C, H, W): the image, then constant frames k / (F - 1)."""
    marks_F = torch.arange(1, num_frames, device=latents_BCHW.device) / max(num_frames - 1, 1)
    frames = marks_F.to(latents_BCHW.dtype)[None, :, None, None, None]
    frames = frames.expand(len(latents_BCHW), -1, *latents_BCHW.shape[1:])
    return torch.cat([latents_BCHW[:, None], frames], 1)


class LastFrame(ImageLatents):
  """The last frame's latents as the last frame of such a sequence, which runs backwards."""

  signals = ('last_frame_latents',)

  def sequence(self, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, C, H, W) -> (B, F, C, H, W)."""
    return super().sequence(latents_BCHW, num_frames).flip(1)


class FrameAdapter(nn.Module):
  """A small transformer layer over frames, without a norm before its feed-forward."""

  def __init__(self, channels: int, dropout: float) -> None:
    super().__init__()
    self.norm1 = nn.LayerNorm(channels)
    self.attn1 = Attention(channels, channels, 2, channels, dropout)
    self.ff = FeedForward(channels, gated=False, dropout=dropout)

  def forward(self, x_BFCHW: Tensor) -> Tensor:
    """(B, F, C, H, W) -> the same."""
    x_BHWFC = x_BFCHW.permute(0, 3, 4, 1, 2)
    h = x_BHWFC.flatten(0, 2)
    h = h + self.attn1(self.norm1(h))
    return (h + self.ff(h)).view(x_BHWFC.shape).permute(0, 3, 4, 1, 2)


class FirstFrameLatents(Conditioner):
  """The paper's details: the image's latents, added to the noise of frame 0."""

  signals, route = ('image_latents',), 'noise'

  def forward(self, latents_BCHW: Tensor, num_frames: int) -> Tensor:
    """(B, C, H, W) -> (B, F, C, H, W), zero after frame 0."""
    return functional.pad(latents_BCHW[:, None], (0, 0, 0, 0, 0, 0, 0, num_frames - 1))


class Number(Conditioner):
  """A number that is embedded as the timestep is."""

  route = 'embedding'

  def __init__(self, widths: Widths) -> None:
    super().__init__(widths)
    self.width = widths.embedding // 4
    self.linear = nn.Sequential(
      nn.Linear(self.width, widths.embedding),
      nn.SiLU(),
      nn.Linear(widths.embedding, widths.embedding),
    )


class Fps(Number):
  """Frames per second, (B,)."""

  signals = ('fps',)

  def forward(self, fps_B: Tensor, num_frames: int) -> Tensor:
    """(B,) -> (B, E)."""
    return self.linear(sinusoid(fps_B, self.width).to(next(self.parameters()).dtype))


class Motion(Number):
  """Motion, (B, 2): frame diagonals per second, and 1 where that is known."""

  signals = ('motion',)

  def forward(self, motion_B2: Tensor, num_frames: int) -> Tensor:
    """(B, 2) -> (B, E)."""
    h = sinusoid(1000 * motion_B2[:, 0], self.width).to(next(self.parameters()).dtype)
    return self.linear[2](self.linear[:2](h) * motion_B2[:, 1:].to(h.dtype))


CONDITIONERS: dict[str, type[Conditioner]] = {
  'first_frame_latents': FirstFrameLatents,
  'fps': Fps,
  'global_image_tokens': GlobalImageTokens,
  'image_latent_tokens': ImageLatentTokens,
  'image_latents': ImageLatents,
  'image_tokens': ImageTokens,
  'last_frame': LastFrame,
  'motion': Motion,
  't5_text': T5Text,
  'text': Text,
}
