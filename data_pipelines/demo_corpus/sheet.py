"""A contact sheet: clips as rows of frames under their captions."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 6
GUTTER, LINE = 4, 20  # Pixels between frames, and of a line of text.


def write(path: str | os.PathLike[str], clips: Sequence[tuple[np.ndarray, str]]) -> None:
  """Writes a picture of clips: COLUMNS frames of each, from its first to its last.

  Args:
    path: of a PNG.
    clips: (frames uint8 (F, H, W, 3), caption) of each, all of one size; none writes nothing.
  """
  if not clips:
    return
  height, width = clips[0][0].shape[1:3]
  row = LINE + height + GUTTER
  image = Image.new('RGB', (COLUMNS * (width + GUTTER) - GUTTER, len(clips) * row), 'white')
  draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
  for i, (frames, caption) in enumerate(clips):
    draw.text((1, i * row + 2), caption, (40, 40, 40), font)
    for j, k in enumerate(np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int).tolist()):
      image.paste(Image.fromarray(frames[k]), (j * (width + GUTTER), i * row + LINE))
  image.save(path)
