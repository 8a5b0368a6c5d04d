"""A cheap look at latents: a linear map to pixels, fitted once to the decoder of a run's VAE.

A latent and its eight neighbours give SIDE x SIDE pixels. The map is fitted, by least squares, to
what the decoder makes of pictures that are drawn here: soft colours, discs and rectangles.
"""

import io
from collections.abc import Callable

import jax
import numpy as np
import PIL.Image
import PIL.ImageDraw

from i2vgen_jax.models import autoencoder

SIDE = 4  # Pixels of a preview per latent, along each side.
NUM_PICTURES, LATENTS = 6, 16  # Pictures to fit to, and their side in latents.
RIDGE = 1e-2
QUALITY = 70  # Of the WebP.


class Preview:
  """float32 latents (F, H, W, C) -> uint8 frames (F, SIDE * H, SIDE * W, 3).

  Args:
    weights_KP: of features K, see `features`, to values P of SIDE x SIDE x 3 in [0, 255].
  """

  def __init__(self, weights_KP: np.ndarray):
    self._weights_KP = weights_KP

  def __call__(self, latents_FHWC: np.ndarray) -> np.ndarray:
    """uint8 frames."""
    frames, height, width, _ = latents_FHWC.shape
    values = features(latents_FHWC) @ self._weights_KP
    patches = values.reshape(frames, height, width, SIDE, SIDE, 3)
    pixels = patches.transpose(0, 1, 3, 2, 4, 5).reshape(frames, SIDE * height, SIDE * width, 3)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def features(latents_FHWC: np.ndarray) -> np.ndarray:
  """float32 (F, H, W, 9 * C + 1): of each latent its 3x3 neighbourhood, and a constant."""
  _, height, width, _ = latents_FHWC.shape
  padded = np.pad(latents_FHWC, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='edge')
  shifts = [(y, x) for y in range(3) for x in range(3)]
  parts = [padded[:, y : y + height, x : x + width] for y, x in shifts]
  return np.concatenate([*parts, np.ones_like(latents_FHWC[..., :1])], -1).astype(np.float32)


def fit(codec: autoencoder.Autoencoder, frozen: dict) -> Preview:
  """Fits the map to a VAE.

  Args:
    codec: of the run.
    frozen: with its parameters.
  """
  pictures = draw_pictures(NUM_PICTURES, LATENTS * codec.downsampling)
  latents_NHWC, decoded_NHWC = there_and_back(codec)(frozen, pictures)
  inputs = features(np.asarray(latents_NHWC))
  inputs = inputs.reshape(-1, inputs.shape[-1]).astype(np.float64)
  wanted = _patches(np.asarray(decoded_NHWC))
  gram = inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1])
  return Preview(np.linalg.solve(gram, inputs.T @ wanted).astype(np.float32))


def there_and_back(codec: autoencoder.Autoencoder) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """(frozen, uint8 pictures (N, H, W, 3)) -> (latents, what the decoder makes of them), jitted."""

  def pass_through(frozen, pictures_NHWC):
    latents_BFHWC = codec.encode_video(frozen, pictures_NHWC[:, None])
    return latents_BFHWC[:, 0], codec.decode_video(frozen, latents_BFHWC)[:, 0]

  return jax.jit(pass_through)


def draw_pictures(number: int, side: int) -> np.ndarray:
  """uint8 (number, side, side, 3): soft colours behind two discs and two rectangles, always the
  same."""
  random = np.random.default_rng(0)
  found = []
  for _ in range(number):
    few = PIL.Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8))
    image = few.resize((side, side), PIL.Image.Resampling.BICUBIC)
    draw = PIL.ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle) * 2:
      left, top = random.integers(0, side, 2).tolist()
      width, height = random.integers(side // 8, side // 2, 2).tolist()
      colour = tuple(random.integers(0, 256, 3).tolist())
      shape((left, top, left + width, top + height), fill=colour)
    found.append(np.asarray(image))
  return np.stack(found)


def _patches(frames_NHWC: np.ndarray) -> np.ndarray:
  """float64 (number of latents, SIDE * SIDE * 3) of frames of LATENTS latents a side."""
  side = LATENTS * SIDE
  small = [
    np.asarray(PIL.Image.fromarray(frame).resize((side, side), PIL.Image.Resampling.BOX))
    for frame in frames_NHWC
  ]
  split = np.stack(small).reshape(-1, LATENTS, SIDE, LATENTS, SIDE, 3)
  return split.transpose(0, 1, 3, 2, 4, 5).reshape(-1, SIDE * SIDE * 3).astype(np.float64)


def webp(frames_FHWC: np.ndarray, fps: float) -> bytes:
  """An endless WebP of uint8 frames, quickly made."""
  frames = [PIL.Image.fromarray(frame_HWC) for frame_HWC in frames_FHWC]
  buffer = io.BytesIO()
  options = dict(quality=QUALITY, method=0, duration=max(1, round(1000 / fps)), loop=0)
  frames[0].save(buffer, 'WEBP', save_all=True, append_images=frames[1:], **options)
  return buffer.getvalue()
