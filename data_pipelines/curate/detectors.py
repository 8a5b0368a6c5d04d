"""What detectors see in frames that are large enough to read: text, faces, people.

Each is a module with `check(given)`, which raises ValueError for what cannot be used, and
`columns(frames, given)`, of schema.SPAN; `given` is what its flag says. They cost far more than
all else that `curate` measures, and so run only where they are asked for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from data_pipelines.curate import faces, people, text
from data_pipelines.media import decode

MODULES = dict(text=text, faces=faces, people=people)  # By their flags.
MAX_SIDE = 960  # Letters of a subtitle are 20 pixels high, and a face of a crowd too.
POSITIONS = (0.1, 0.5, 0.9)  # Of the shot.


def check(detectors: Mapping[str, str]) -> None:
  """Raises ValueError unless each can run."""
  for name, given in detectors.items():
    MODULES[name].check(given)


def columns(
  data: bytes, known: Mapping, span: tuple[float, float], detectors: Mapping[str, str]
) -> dict[str, Any]:
  """What the detectors find in an image, or in three frames of a video's shot.

  Args:
    data: an encoded file.
    known: its row of schema.SIDECAR.
    span: first and last presentation time of the shot.
    detectors: name -> what is given to it.
  """
  scale = min(1.0, MAX_SIDE / max(known['height'], known['width']))
  height, width = (max(16, round(scale * known[side])) for side in ('height', 'width'))
  if known['media'] == 'image':
    image = decode.decode_image(data).resize((width, height), PIL.Image.Resampling.BILINEAR)
    frames = np.asarray(image)[None]
  else:
    times = np.array([span[0] + position * (span[1] - span[0]) for position in POSITIONS])
    frames, _ = decode.decode_video(data, times, height, width)
  found: dict[str, Any] = {}
  for name, given in detectors.items():
    found.update(MODULES[name].columns(list(frames), given))
  return found
