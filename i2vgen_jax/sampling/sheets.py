"""Videos as pictures: all frames on one sheet."""

import numpy as np
from etils import epath
from PIL import Image


def contact_sheet(videos_BFHWC: np.ndarray) -> np.ndarray:
  """One row per video, its frames side by side with a pixel of white between; uint8 (H, W, 3)."""
  rows = []
  for video_FHWC in np.asarray(videos_BFHWC):
    rows.append(
      np.concatenate(
        [np.pad(f, ((0, 1), (0, 1), (0, 0)), constant_values=255) for f in video_FHWC], 1
      )
    )
  return np.concatenate(rows, 0)


def write_png(path: epath.PathLike, image_HWC: np.ndarray) -> None:
  """Writes a uint8 image."""
  with epath.Path(path).open('wb') as file:
    Image.fromarray(np.asarray(image_HWC)).save(file, 'PNG')
