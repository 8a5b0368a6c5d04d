"""Which measures know what held-out captions ask for: those of the demo corpus's two kinds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from i2vgen_jax.evaluation import scenes, shapes

Measure = Callable[[np.ndarray, str], dict[str, float]]


def choose(captions: Sequence[str], fps: float) -> Measure:
  """(uint8 video, caption) -> measures; none of other captions than the demo corpus's.

  The plainest captions are of both kinds: if all are, they are taken for shapes.

  Args:
    captions: of all held-out clips.
    fps: frames per second of the videos.
  """
  if shapes.is_demo(captions):
    return shapes.measure
  if scenes.is_scenes(captions):
    return lambda video_FHWC, caption: scenes.measure(video_FHWC, caption, fps)
  return lambda video_FHWC, caption: {}


def summary(mean: Mapping[str, float]) -> str:
  """What there is of the measures of `choose` in one line; '' if nothing.

  Args:
    mean: of each measure, over clips.
  """
  if 'follows_caption' not in mean:
    return ''
  moves = f'{mean["follows_caption"]:.0%} move as captioned'
  if 'follows_camera' not in mean:
    return f'{moves} (chance 25 %), {mean["keeps_color"]:.0%} keep the colour, '
  named = {'camera': 'follows_camera', 'speed': 'follows_speed', 'colour': 'keeps_color'}
  named |= {'shape': 'keeps_shape', 'number': 'keeps_count'}
  right = (f'{name} {mean[key]:.0%}' for name, key in named.items() if key in mean)
  return f'{moves}, right: {", ".join(right)}, '
