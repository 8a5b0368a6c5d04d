"""Videos and photographs as corpora have them, made by us: the pixels of each frame are known.

  videos/list.txt, *.mp4, *.avi   H.264 with B-frames in mp4 and MPEG-4 part 2 in AVI
  images/list.txt, *.jpg          JPEGs of four sizes

Lists are as VGen's: `file|||caption`. Scenes have contrast at all scales, as photographs do,
and something with an outline before them.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import av
import cv2
import numpy as np
import PIL.Image


@dataclasses.dataclass(frozen=True)
class Clip:
  """A video to render.

  Attributes:
    size: (height, width) in pixels.
    fps, num_frames: of the video.
    codec: 'libx264' or 'mpeg4'.
    seed: of its scene.
    pan: pixels per frame that the camera moves to the right.
    speed: pixels per frame that the disc before the scene moves to the right.
    growth: pixels per frame by which the disc's radius grows.
    caption: its line in the list.
  """

  size: tuple[int, int]
  fps: int
  num_frames: int
  codec: str
  seed: int
  caption: str
  pan: float = 0.0
  speed: float = 0.0
  growth: float = 0.0


_SHORT = dict(size=(256, 256), fps=8, num_frames=16, codec='libx264', pan=6.0, speed=-6.0)
_AVI = dict(size=(240, 320), fps=25, num_frames=250, codec='mpeg4', pan=0.7)
CLIPS = {
  'flower.mp4': Clip(
    (336, 596), 16, 165, 'libx264', 1, 'a flower opens, filmed from a tripod', growth=0.3
  ),
  '0001_cat.mp4': Clip(**_SHORT, seed=2, caption='a cat walks'),
  '0088_lion.mp4': Clip(**_SHORT, seed=3, caption='a lion in a tree'),
  'guitar_g03.avi': Clip(**_AVI, seed=4, caption='a person plays the guitar'),
  'guitar_g18.avi': Clip(**_AVI, seed=5, caption='a person plays the guitar, seen from the left'),
}
PHOTOGRAPHS = {  # Sizes are (height, width).
  'frog.jpg': ((720, 1280), 'A green frog floats on the leaves of a lotus, in a painted style.'),
  'parrot.jpg': ((720, 1280), 'A close-up of a parrot'),
  'net.jpg': ((669, 667), 'A net cage of a fish farm in the sea'),
  'truck.jpg': ((640, 853), 'A truck that carries a large screen'),
}


def scene(seed: int, height: int, width: int) -> np.ndarray:
  """A picture with about as much contrast in each octave, as photographs have: uint8 (H, W, 3)."""
  rng = np.random.default_rng(seed)
  picture = np.zeros((height, width, 3), np.float32)
  cells = 3
  while cells < height / 2:
    coarse = rng.standard_normal((cells, -(-cells * width // height), 3)).astype(np.float32)
    coarse = 0.25 * coarse + 0.75 * coarse.mean(axis=-1, keepdims=True)  # More light than colour.
    picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * cells**-0.2
    cells *= 2
  picture = (picture - picture.mean()) / picture.std()
  return np.clip(115 + 38 * picture, 0, 255).astype(np.uint8)


def _put_disc(picture_HWC, body_HWC, center, radius):
  """Replaces a circle of the picture by the body's pixels; center is (x, y)."""
  mask = np.zeros(picture_HWC.shape[:2], np.uint8)
  fixed = [round(16 * value) for value in (*center, radius)]  # Sixteenths of a pixel.
  cv2.circle(mask, fixed[:2], fixed[2], 1, cv2.FILLED, shift=4)
  return np.where(mask[..., None], body_HWC, picture_HWC)


def _body(seed, height, width):
  """The texture of what stands before a scene: brighter and redder than it."""
  body = scene(seed + 1000, height, width).astype(np.float32)
  return (0.5 * body + np.float32([125, 85, 35])).astype(np.uint8)


def render(clip: Clip) -> Iterator[np.ndarray]:
  """Yields the clip's frames, uint8 (height, width, 3), before they are encoded."""
  height, width = clip.size
  background = scene(clip.seed, height, width + int(clip.pan * clip.num_frames) + 2)
  body = _body(clip.seed, height, width)
  for index in range(clip.num_frames):
    shift = np.float32([[1, 0, -clip.pan * index], [0, 1, 0]])
    frame = cv2.warpAffine(background, shift, (width, height))
    center = (width / 2 + clip.speed * (index - clip.num_frames / 2), height / 2)
    yield _put_disc(frame, body, center, height / 6 + clip.growth * index)


def photograph(name: str) -> np.ndarray:
  """The pixels of one of PHOTOGRAPHS before it is encoded: uint8 (height, width, 3)."""
  (height, width), _ = PHOTOGRAPHS[name]
  seed = 10 + list(PHOTOGRAPHS).index(name)
  center = (width * (0.4 + 0.02 * seed % 0.2), height / 2)
  return _put_disc(scene(seed, height, width), _body(seed, height, width), center, height / 4)


def encode(path: pathlib.Path, clip: Clip):
  """Renders and encodes a clip; the container follows from the path."""
  options = {'g': '40', 'crf': '18'} if clip.codec == 'libx264' else {'g': '12'}
  with av.open(str(path), 'w') as container:
    stream = container.add_stream(clip.codec, rate=clip.fps, options=options)
    stream.height, stream.width = clip.size
    stream.pix_fmt = 'yuv420p'
    if clip.codec == 'mpeg4':
      stream.bit_rate = 1_500_000
    for frame in render(clip):
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())


def write(folder: pathlib.Path):
  """Writes videos/ and images/, each with its list."""
  captions = dict(
    videos={name: clip.caption for name, clip in CLIPS.items()},
    images={name: caption for name, (_, caption) in PHOTOGRAPHS.items()},
  )
  for kind, lines in captions.items():
    (folder / kind).mkdir(parents=True)
    text = ''.join(f'{name}|||{caption}\n' for name, caption in lines.items())
    (folder / kind / 'list.txt').write_text(text)
  for name, clip in CLIPS.items():
    encode(folder / 'videos' / name, clip)
  for name in PHOTOGRAPHS:
    PIL.Image.fromarray(photograph(name)).save(folder / 'images' / name, quality=90)


def frame_numbers(clip: Clip, frames_FHWC: np.ndarray) -> np.ndarray:
  """Which of the clip's frames these are: the number of the most similar rendered one, for each.

  Args:
    clip: one of CLIPS.
    frames_FHWC: uint8, decoded, of the clip's own size.
  Returns:
    int64 (F,).
  """
  decoded = np.stack([_quarter(frame) for frame in frames_FHWC])
  differences = [
    np.abs(decoded - _quarter(rendered)).mean(axis=(1, 2, 3)) for rendered in render(clip)
  ]
  return np.argmin(differences, axis=0)


def _quarter(frame_HWC):
  return np.asarray(PIL.Image.fromarray(frame_HWC).reduce(4), np.float32)
