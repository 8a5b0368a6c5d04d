"""The four signals of the release, from which all its conditioners are fed.

Paper Sec. 3.1: the caption by CLIP's text tower, the first frame by CLIP's vision tower (semantics)
and by the VAE (details), and the frame rate.

Dimension key: B batch, F frames, H W height and width, L tokens, D context width, V width of the
CLIP image vector.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from data_pipelines.stream import fields
from i2vgen_jax.conditions.base import Request, Signal
from i2vgen_jax.models import clip
from i2vgen_jax.pretrained import tokenizers
from i2vgen_jax.process import paths

Tokenize = Callable[[Sequence[str]], np.ndarray]  # Captions -> int32 (B, L).


class Tokens(Signal):
  """A caption by a text tower: (B, L, D). Dropped, and guided away from, it is the negative prompt.

  Attributes:
    field: of the batch, with the token ids.
  """

  field: ClassVar[str]
  reads_caption = True
  dropout = 0.1  # As VGen's text-to-video stage.
  cached = ''

  def __post_init__(self) -> None:
    self.tokenize = self.make_tokenize() if self.reads_captions else self._plan

  def _plan(self, captions: Sequence[str]) -> np.ndarray:
    """Ids of the right shape, for a session that is only planned."""
    return np.zeros((len(captions), self.module.max_length), np.int32)

  @abc.abstractmethod
  def make_tokenize(self) -> Tokenize:
    """captions -> int32 (B, L); raises ValueError without a tokenizer that fits the tower."""

  def fields(self) -> tuple[fields.Field, ...]:
    """The token ids."""
    return (fields.TokenIds(self.tokenize, self.field),)

  def unread(self, caption: str) -> str:
    """What the tokenizer cuts off; as Signal.unread."""
    if not isinstance(self.tokenize, tokenizers.Tokenize):  # A plan's, or a user's own.
      return ''
    lost = self.tokenize.beyond(caption)
    return f'reads {self.tokenize.length} tokens, so "{lost}" is left out.' if lost else ''

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """(L, D)."""
    return self.module.max_length, self.module.hidden_size

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, L, D) of (B, L); as Signal.encode."""
    return self.module.apply({'params': frozen[self.networks[0]]}, inputs[self.field])

  def of_request(self, request: Request) -> dict[str, np.ndarray]:
    """The captions' ids."""
    return {self.field: self.tokenize(list(request.captions))}

  def null(self, frozen: Any) -> jax.Array:
    """The negative prompt's encoding."""
    return frozen['null'][self.name]

  def negative(self, prompt: str) -> dict[str, np.ndarray]:
    """The negative prompt's ids."""
    return {self.field: self.tokenize([prompt])}

  def unconditional(self, frozen: Any, negative: Mapping, value: jax.Array) -> jax.Array:
    """The negative prompt's encoding for each row; as Signal.unconditional."""
    return jnp.broadcast_to(self.encode(frozen, negative), value.shape)


class Caption(Tokens):
  """The caption by CLIP: the penultimate layer after the final norm, as in the release."""

  name = 'text'
  networks = ('text_encoder',)
  field = 'token_ids'
  drop_slot = 2

  def make_tokenize(self) -> Tokenize:
    """Tokenizes by the run's own copy of the tokenizer, or by config.tokenizer."""
    return tokenizers.clip(self.folder(), self.config.pad_token, self.module)

  def folder(self) -> str:
    """Where its tokenizer lies."""
    given, start = self.config.tokenizer, self.config.start
    return tokenizers.folder('tokenizer', given, start, self.workdir)

  def keep_files(self, workdir: epath.PathLike) -> None:
    """Copies the tokenizer."""
    tokenizers.copy_files(
      tokenizers.CLIP_FILES, paths.find(self.folder()), epath.Path(workdir) / 'tokenizer'
    )


class ImageEmbedding(Signal):
  """The first frame by CLIP: (B, V), pooled and projected, not normalised."""

  name = 'image_embedding'
  networks = ('image_encoder',)
  dropout = 0.1
  drop_slot = 0
  cached = 'first'  # Of all frames, any of which may become the first.

  def fields(self) -> tuple[fields.Field, ...]:
    """The tower's square."""
    return (fields.ClipImage(self.module.image_size),)

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """(V,)."""
    return (self.module.projection_dim,)

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, V) of uint8 squares; as Signal.encode."""
    pixels_BHWC = clip.normalize(inputs['clip_image'])
    return self.module.apply({'params': frozen['image_encoder']}, pixels_BHWC)

  def of_request(self, request: Request) -> dict[str, np.ndarray]:
    """The pictures' squares, as training cuts them."""
    return {'clip_image': request.batch['clip_image']}

  def unconditional(self, frozen: Any, negative: Mapping, value: jax.Array) -> jax.Array:
    """Zeros, as in the release; as Signal.unconditional."""
    return jnp.zeros_like(value)


class FrameLatents(Signal):
  """The first frame by the VAE: scaled latents, (B, H, W, C), a draw of their own, as released."""

  name = 'image_latents'
  networks = ('vae',)
  drop_slot = 1
  frame = slice(0, 1)  # Of the clip.
  field = 'image'

  def fields(self) -> tuple[fields.Field, ...]:
    """The clip."""
    return (fields.Video(),)

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """(H, W, C)."""
    factor = self.autoencoder.downsampling
    return height // factor, width // factor, self.autoencoder.vae.latent_channels

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, H, W, C) of uint8 pixels at the video's size; as Signal.encode."""
    image_BFHWC = inputs[self.field][:, None]
    return self.autoencoder.encode_video(frozen, image_BFHWC, keys_B)[:, 0]

  def of_batch(self, batch: Mapping) -> dict[str, jax.Array]:
    """The frame, uint8 (B, H, W, 3)."""
    return {self.field: batch['video'][:, self.frame][:, 0]}

  def of_request(self, request: Request) -> dict[str, np.ndarray]:
    """The pictures, scaled to cover the video's size and cut to their centres."""
    return {self.field: request.batch['video'][:, 0]}

  def from_cache(self, batch: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B, H, W, C), drawn from the frame's moments."""
    mean, logvar = (
      batch[name][:, self.frame].astype(jnp.float32) for name in ('latent_mean', 'latent_logvar')
    )
    return self.autoencoder.draw_latents(mean, logvar, keys_B)[:, 0]


class FrameRate(Signal):
  """Frames per second, (B,); never dropped, and the same on both sides of guidance."""

  name = 'fps'

  def fields(self) -> tuple[fields.Field, ...]:
    """The number itself."""
    return (fields.Fps(),)

  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """()."""
    return ()

  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """(B,) float32; as Signal.encode."""
    return inputs['fps'].astype(jnp.float32)

  def of_request(self, request: Request) -> dict[str, np.ndarray]:
    """The request's rate for each video."""
    return {'fps': np.full((len(request.captions),), request.fps, np.float32)}

  def null(self, frozen: Any) -> None:
    """It is never dropped."""
    return
