"""Videos as pictures: all frames on one sheet, with what they are written beside them."""

import functools
import io
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.corpus import storage

# A dark grey that is calm on light pages and on dark ones; text on it has a contrast of 12.
GROUND, TEXT, QUIET = (34, 38, 44), (232, 235, 239), (176, 184, 194)
GAP = 2  # Pixels between frames.
MOST_LINES = 3  # Of a caption.
LEAST_WIDTH = 160  # Pixels of a video that is shown beside another.


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which comes with matplotlib: Latin, Greek, Cyrillic and more."""
  return ImageFont.truetype(
    str(pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf')), size
  )


def contact_sheet(
  videos: Mapping[str, np.ndarray], captions: Sequence[str], fps: float, heading: str = ''
) -> np.ndarray:
  """uint8 (H, W, 3): for each clip its caption, and below it a row of frames for each set.

  Args:
    videos: uint8 (N, F, H, W, 3) by the name of the set, all of one shape.
    captions: N of them.
    fps: frames per second, for the times above the frames.
    heading: above all.
  """
  count, frames, height, width, _ = next(iter(videos.values())).shape
  font = _font(max(11, min(18, width // 12)))
  line = sum(font.getmetrics())
  left = 2 * GAP + max(int(font.getlength(name)) + line for name in (*videos, '00'))
  total = left + frames * (width + GAP) + GAP
  headings = _wrapped(heading, font, total - 2 * line)
  titles = [_wrapped(f'{i:02d} · {text}', font, total - line) for i, text in enumerate(captions)]
  tall = (len(headings) + 2) * line + sum(
    len(title) * line + line // 2 + len(videos) * (height + GAP) for title in titles
  )
  sheet = Image.new('RGB', (total, tall + line // 2), GROUND)
  draw = ImageDraw.Draw(sheet)
  y = line // 2
  for text in headings:
    draw.text((2 * GAP, y), text, TEXT, font)
    y += line
  every = -(-int(1.5 * font.getlength('00.00 s')) // (width + GAP))  # Where frames are small.
  for i in range(0, frames, every):
    draw.text((left + i * (width + GAP), y), f'{i / fps:.2f} s', QUIET, font)
  y += line
  for number in range(count):
    y += line // 2
    for text in titles[number]:
      draw.text((2 * GAP, y), text, TEXT, font)
      y += line
    for name, videos_BFHWC in videos.items():
      draw.text((2 * GAP, y + (height - line) // 2), name, QUIET, font)
      for i, frame_HWC in enumerate(videos_BFHWC[number]):
        sheet.paste(Image.fromarray(np.asarray(frame_HWC)), (left + i * (width + GAP), y))
      y += height + GAP
  return np.asarray(sheet)


def side_by_side(videos: Mapping[str, np.ndarray], caption: str) -> np.ndarray:
  """uint8 (F, H, W, 3): one video of several, with their names and the caption above.

  Args:
    videos: uint8 (F, H, W, 3) by name, all of one shape; small ones are enlarged.
    caption: what happens.
  """
  factor = -(-LEAST_WIDTH // next(iter(videos.values())).shape[2])
  large = [np.asarray(video).repeat(factor, 1).repeat(factor, 2) for video in videos.values()]
  frames, height, width, _ = large[0].shape
  font = _font(max(11, min(18, width // 12)))
  line, total = sum(font.getmetrics()), len(large) * (width + GAP) + GAP
  title = _wrapped(caption, font, total - 2 * GAP)
  top = (len(title) + 1) * line + GAP
  ground = Image.new('RGB', (total, top + height + GAP), GROUND)
  draw = ImageDraw.Draw(ground)
  for i, text in enumerate(title):
    draw.text((2 * GAP, i * line), text, TEXT, font)
  for i, name in enumerate(videos):
    draw.text((2 * GAP + i * (width + GAP), len(title) * line), name, QUIET, font)
  made_FHWC = np.repeat(np.asarray(ground)[None], frames, 0)
  for i, video_FHWC in enumerate(large):
    left = GAP + i * (width + GAP)
    made_FHWC[:, top : top + height, left : left + width] = video_FHWC
  return made_FHWC


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
  """The text in lines of so many pixels; what is beyond MOST_LINES is left out, and shown as
  such."""
  found = ['']
  for word in text.split():
    longer = f'{found[-1]} {word}'.strip()
    if not found[-1] or font.getlength(longer) <= width:
      found[-1] = longer
    else:
      found.append(word)
  if len(found) > MOST_LINES:
    found = [*found[: MOST_LINES - 1], f'{found[MOST_LINES - 1]} …']
  return [line for line in found if line]


def write_png(path: epath.PathLike, image_HWC: np.ndarray) -> None:
  """Writes a uint8 image."""
  buffer = io.BytesIO()
  Image.fromarray(np.asarray(image_HWC)).save(buffer, 'PNG')
  storage.write_bytes(epath.Path(path), buffer.getvalue())
