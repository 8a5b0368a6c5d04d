"""The arrays of a batch, a class each: what of an example a model may be given.

Pixels are made where media is decoded, in a child process; all else is made of the bucket, the
captions and the index, in the run's own process. A model that needs another array adds a class
here, and names it in the signal that reads it (i2vgen_jax/conditions/).
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np

from data_pipelines.corpus import buckets as buckets_lib

IMAGE_FPS = 1.0


@dataclasses.dataclass(frozen=True)
class Rows:
  """What is known of a batch besides its pixels.

  Attributes:
    bucket: of the batch.
    captions: one for each row.
    positions: of the rows in the global batch.
    motion: of `curate`, frame diagonals per second, one for each row, NaN where it is unknown; ()
      if no row's is known.
  """

  bucket: buckets_lib.Bucket
  captions: Sequence[str]
  positions: Sequence[int]
  motion: Sequence[float] = ()


class PixelField(abc.ABC):
  """uint8 pixels of some frames of each example; picklable, for it is made in a child process.

  Attributes:
    name: of the array in the batch.
    is_square: the central square, as CLIP's towers take it; else the bucket's centre crop.
  """

  name: ClassVar[str]
  is_square: ClassVar[bool]

  @abc.abstractmethod
  def shape(self, bucket: buckets_lib.Bucket) -> tuple[int, ...]:
    """Of a row: (height, width, 3), after the number of frames if it may be more than one."""

  @abc.abstractmethod
  def frames(self, num_frames: int) -> tuple[int, ...]:
    """Which frames of a clip it shows, ascending."""


@dataclasses.dataclass(frozen=True)
class Video(PixelField):
  """All frames of the clip: (B, F, H, W, 3)."""

  name = 'video'
  is_square = False

  def shape(self, bucket: buckets_lib.Bucket) -> tuple[int, ...]:
    """(F, H, W, 3)."""
    return bucket.frames, bucket.height, bucket.width, 3

  def frames(self, num_frames: int) -> tuple[int, ...]:
    """All of them."""
    return tuple(range(num_frames))


@dataclasses.dataclass(frozen=True)
class ClipImage(PixelField):
  """The first frame as the CLIP tower takes it: (B, S, S, 3)."""

  name = 'clip_image'
  is_square = True
  side: int

  def shape(self, bucket: buckets_lib.Bucket) -> tuple[int, ...]:
    """(S, S, 3)."""
    return self.side, self.side, 3

  def frames(self, num_frames: int) -> tuple[int, ...]:
    """The first."""
    return (0,)


class RowField(abc.ABC):
  """An array that is made of the bucket, the captions, and what the index knows."""

  @property
  @abc.abstractmethod
  def name(self) -> str:
    """Of the array in the batch."""

  @abc.abstractmethod
  def of_rows(self, rows: Rows) -> np.ndarray:
    """The array of a batch, a row for each caption."""


@dataclasses.dataclass(frozen=True)
class TokenIds(RowField):
  """The captions as int32 (B, L), by a tokenizer."""

  tokenize: Callable[[Sequence[str]], np.ndarray]
  name: str = 'token_ids'

  def of_rows(self, rows: Rows) -> np.ndarray:
    """(B, L)."""
    return np.asarray(self.tokenize(rows.captions), np.int32)


@dataclasses.dataclass(frozen=True)
class Fps(RowField):
  """Frames per second of the sampling, float32 (B,); 1 for images."""

  name: str = 'fps'

  def of_rows(self, rows: Rows) -> np.ndarray:
    """(B,)."""
    fps = IMAGE_FPS if rows.bucket.media == 'image' else rows.bucket.fps
    return np.full(len(rows.positions), fps, np.float32)


@dataclasses.dataclass(frozen=True)
class Motion(RowField):
  """How much moves, float32 (B,): mean optical flow in frame diagonals per second; NaN where it is
  unknown, as of images."""

  name: str = 'motion'

  def of_rows(self, rows: Rows) -> np.ndarray:
    """(B,)."""
    unknown = [math.nan] * len(rows.positions)
    return np.asarray(
      unknown if rows.bucket.media == 'image' else rows.motion or unknown, np.float32
    )


@dataclasses.dataclass(frozen=True)
class Position(RowField):
  """The rows of the global batch, int32 (B,), by which all random draws are keyed."""

  name: str = 'position'

  def of_rows(self, rows: Rows) -> np.ndarray:
    """(B,)."""
    return np.asarray(rows.positions, np.int32)


Field = PixelField | RowField


def pixel_fields(fields: Sequence[Field]) -> tuple[PixelField, ...]:
  """Those that are decoded."""
  return tuple(field for field in fields if isinstance(field, PixelField))


def add_rows(
  batch: Mapping[str, np.ndarray], fields: Sequence[Field], rows: Rows
) -> dict[str, np.ndarray]:
  """The batch, with the arrays of its row fields.

  Args:
    batch: its pixels, by name.
    fields: of the batch; those of pixels are passed over.
    rows: what else is known of it.
  """
  made = {field.name: field.of_rows(rows) for field in fields if isinstance(field, RowField)}
  return dict(batch) | made


def released(
  tokenize: Callable[[Sequence[str]], np.ndarray], clip_image_size: int
) -> tuple[Field, ...]:
  """What the conditions of the release read.

  Args:
    tokenize: captions -> token ids.
    clip_image_size: side of the CLIP tower's squares.
  """
  return Video(), ClipImage(clip_image_size), TokenIds(tokenize), Fps()
