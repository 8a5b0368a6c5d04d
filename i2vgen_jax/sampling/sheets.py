"""Videos as pictures: all frames on one sheet."""

import io

import numpy as np
from etils import epath
from PIL import Image

from data_pipelines.corpus import storage


def contact_sheet(videos_BFHWC: np.ndarray) -> np.ndarray:
  """One row per video, its frames side by side with a pixel of white between; uint8 (H, W, 3)."""
  margins = (0, 0), (0, 0), (0, 1), (0, 1), (0, 0)
  framed_BFHWC = np.pad(np.asarray(videos_BFHWC), margins, constant_values=255)
  return np.concatenate([np.concatenate(video_FHWC, 1) for video_FHWC in framed_BFHWC], 0)


def write_png(path: epath.PathLike, image_HWC: np.ndarray) -> None:
  """Writes a uint8 image."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image_HWC)).save(buffer, 'PNG')
  storage.write_bytes(epath.Path(path), buffer.getvalue())
