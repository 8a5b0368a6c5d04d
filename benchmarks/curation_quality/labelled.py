"""Pictures that packages ship, with boxes of their main subject (subjects.json)."""

import json
import pathlib
import site
from collections.abc import Iterator

import av
import numpy as np
import PIL.Image

LABELS = pathlib.Path(__file__).with_name('subjects.json')


def pictures(folder: str) -> Iterator[tuple[str, np.ndarray, float]]:
  """Yields (name, uint8 RGB picture (H, W, 3), share of it that the subject's boxes take).

  A share of 0 is a picture without a subject. What is found neither in the folder nor among the
  installed packages is named.
  """
  roots = [pathlib.Path(folder), *map(pathlib.Path, site.getsitepackages())]
  for label in json.loads(LABELS.read_text())['pictures']:
    path = next((root / label['path'] for root in roots if (root / label['path']).exists()), None)
    if path is None:
      print(f'not found: {label["path"]} of {label["package"]}')
      continue
    picture_HWC = _read(path, label.get('frame'))
    if 'crop' in label:
      height, width = picture_HWC.shape[:2]
      left, top, right, bottom = label['crop']
      rows = slice(height * top // 100, height * bottom // 100)
      picture_HWC = picture_HWC[rows, width * left // 100 : width * right // 100]
    boxes = np.zeros((100, 100), bool)
    for left, top, right, bottom in label['boxes']:
      boxes[top:bottom, left:right] = True
    yield label['path'], picture_HWC, float(boxes.mean())


def _read(path: pathlib.Path, frame: int | None) -> np.ndarray:
  if frame is None:
    return np.asarray(PIL.Image.open(path).convert('RGB'))
  with av.open(str(path)) as container:
    for index, found in enumerate(container.decode(video=0)):
      if index == frame:
        return found.to_ndarray(format='rgb24')
  raise ValueError(f'{path} has no frame {frame}.')
