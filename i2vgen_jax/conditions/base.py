"""Two nouns. A signal is something that is read, encoded by a frozen network, cached, dropped and
guided: a caption, a picture's latents. A conditioner is the trainable module that turns signals
into one route of the U-Net.

A conditioner's file defines its class, and a signal if it reads one that is not in signals.py; a
line of `unet.conditioners` uses it. Stream, cache, training, sampling, evaluation and ablation go
through that list and know no condition by name.
"""

import abc
import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from etils import epath

from data_pipelines.media import pictures
from data_pipelines.stream import decoder, fields
from i2vgen_jax.models import autoencoder


@dataclasses.dataclass(frozen=True)
class Request:
  """A user's request for videos, with one entry for each.

  Attributes:
    images: pictures, encoded (pictures.read_image) or decoded already, of any size.
    captions: what happens.
    height, width: of the videos, pixels.
    fps: of the videos.
    more: values of the signals' own flags (Signal.flags) by name, as text.
    pixel_fields: all that the model's signals read; the session knows them.
  """

  images: Sequence[pictures.Encoded | PIL.Image.Image]
  captions: Sequence[str]
  height: int
  width: int
  fps: float
  more: Mapping[str, str] = dataclasses.field(default_factory=dict)
  pixel_fields: tuple[fields.PixelField, ...] = ()

  @functools.cached_property
  def batch(self) -> dict[str, np.ndarray]:
    """The fields as a batch of training would hold them if the pictures were its images: to the
    bit, and so videos have one frame. Raises DecodeError, a ValueError."""
    return decoder.of_pictures(self.pixel_fields, self.images, self.height, self.width)


@dataclasses.dataclass(eq=False)
class Signal(abc.ABC):
  """Something that a model is conditioned on, before anything trainable.

  `inputs` below is a dict of arrays with a leading batch dim: what `encode` takes, of a batch of
  the stream (`of_batch`) or of a user's request (`of_request`).

  Attributes:
    name: of its entry in `conditioning` and in config.condition_dropout.
    networks: blocks of the config whose frozen parameters it reads.
    flags: name -> help of flags that `sample` gets for it; `Request.more` holds their values.
    reads_caption: whether `of_request` reads the captions.
    dropout: how often training drops it, if config.condition_dropout does not say.
    drop_slot: its place in the draws of condition dropout that the first release had, whose keys
      it also draws by; None draws by its name, so that a new signal changes no other's draws.
    cached: what a cache keeps of what `encode` gives: with 'all', 'first' or 'last' a row for each
      frame, encoded as a clip of its own, of which a batch gets those of the drawn frames; with ''
      one row, of the caption; with None nothing, and each step encodes it.
    config: of the run.
    autoencoder: of the run.
    modules: the frozen networks, Flax modules, by their block of the config.
    workdir: of the run, or None; its own copy of a tokenizer comes first.
    reads_captions: False for a session that is only planned: then there is no tokenizer.
  """

  name: ClassVar[str]
  networks: ClassVar[tuple[str, ...]] = ()
  flags: ClassVar[Mapping[str, str]] = {}
  reads_caption: ClassVar[bool] = False
  dropout: ClassVar[float] = 0.0
  drop_slot: ClassVar[int | None] = None
  cached: ClassVar[Literal['all', 'first', 'last', ''] | None] = None

  config: Any
  autoencoder: autoencoder.Autoencoder
  modules: Mapping[str, Any]
  workdir: epath.PathLike | None = None
  reads_captions: bool = True

  def __post_init__(self) -> None:  # noqa: B027  # Most need nothing.
    """Makes what a subclass needs besides, such as a tokenizer."""

  @property
  def module(self) -> Any:
    """The Flax module of its network, the first if it reads several."""
    return self.modules[self.networks[0]]

  def unread(self, caption: str) -> str:
    """What it leaves out of a caption that is too long for it, a sentence without its subject; ''
    if it reads all."""
    return ''

  @abc.abstractmethod
  def fields(self) -> tuple[fields.Field, ...]:
    """The fields that it reads from a batch."""

  @abc.abstractmethod
  def shape(self, height: int, width: int) -> tuple[int, ...]:
    """Shape of a row of what `encode` returns, for a video of this size in pixels."""

  @abc.abstractmethod
  def encode(self, frozen: Any, inputs: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """float32 (B, ...) for the conditioners.

    Args:
      frozen: parameters by network.
      inputs: of `of_batch` or `of_request`.
      keys_B: its own, one per sample, in training; None wants the same value at every call.
    """

  @abc.abstractmethod
  def of_request(self, request: Request) -> dict[str, np.ndarray]:
    """`inputs` of what a user gives; raises ValueError if something is missing."""

  def of_batch(self, batch: Mapping) -> dict[str, jax.Array]:
    """`inputs` of a batch of the stream."""
    return {field.name: batch[field.name] for field in self.fields()}

  def own_keys(self, keys_B: jax.Array | None) -> jax.Array | None:
    """The keys of its draws, from those of a step; None stays None."""
    if keys_B is None or self.drop_slot is not None:
      return keys_B
    number = zlib.crc32(self.name.encode())
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)

  # Dropped and guided.

  def null(self, frozen: Any) -> jax.Array | None:
    """The value that replaces it when it is dropped, broadcastable to (B, ...); None if it is
    never dropped.

    `frozen['null'][name]` is the encoding of `negative` of the run's own negative prompt, if it has
    one.
    """
    return jnp.zeros(())

  def negative(self, prompt: str) -> dict[str, np.ndarray]:
    """`inputs` of one row for what guidance moves away from; {} if it needs none."""
    return {}

  def unconditional(self, frozen: Any, negative: Mapping, value: jax.Array) -> jax.Array:
    """The other side of guidance, shaped as `value`; by default guidance does not act on it.

    Args:
      frozen: parameters by network.
      negative: of `negative`.
      value: what `encode` gave.
    """
    return value

  def from_cache(self, batch: Mapping, keys_B: jax.Array | None = None) -> jax.Array:
    """As `encode`, for a batch with what is cached, `latent_mean` and `latent_logvar`."""
    if self.cached is None:
      return self.encode({}, self.of_batch(batch), keys_B)
    return batch[self.name].astype(jnp.float32)

  def keep_files(self, workdir: epath.PathLike) -> None:  # noqa: B027  # Most read nothing else.
    """Copies what it reads from elsewhere, such as a tokenizer, into the workdir."""


class Conditioner(nn.Module):
  """Turns `signals`, in their order, into one `route`; a subclass sets both.

  The routes: 'context' (tokens for cross-attention, concatenated in the config's order), 'concat'
  (channels beside the noisy latents), 'noise' (added to the noisy latents), 'embedding' (added to
  the timestep embedding). Its own fields are set by its line of the config.

  Attributes:
    ablated: what a table calls it when a model goes without; '' leaves it out of ablations.
    route_width: channels the route takes: D of the context, C of the latents or E.
    embedding_width: E.
    dropout: rate within the conditioner.
  """

  signals: ClassVar[tuple[type[Signal], ...]]
  route: ClassVar[Literal['context', 'concat', 'noise', 'embedding']]
  ablated: ClassVar[str] = ''

  route_width: int
  embedding_width: int
  dropout: float
  dtype: jnp.dtype
