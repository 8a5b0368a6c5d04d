"""Small videos of all kinds, made here: four coloured quadrants, and bars that count the frames.

What each must look like is known twice: by what was drawn, and by ffmpeg's own upright decode.
"""

import fractions
import io
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import av
import av.filter
import numpy as np
import PIL.Image

from benchmarks import scheduling

HEIGHT, WIDTH = 64, 96
COLOURS = np.array([[(200, 40, 40), (40, 170, 60)], [(40, 60, 200), (130, 130, 130)]], np.uint8)
# Options of encoders: fast, and close to what is drawn.
H264 = {'crf': '8', 'preset': 'ultrafast', 'bf': '2'}
X265 = {'crf': '8', 'preset': 'ultrafast', 'x265-params': 'log-level=none:pools=1'}
VP9 = {'crf': '8', 'b': '0', 'deadline': 'realtime', 'cpu-used': '8'}
AV1 = {'crf': '8', 'preset': '12', 'svtav1-params': 'lp=1'}
FINE = {'q': '2', 'qmin': '1', 'qmax': '2', 'bf': '2'}
_FLAGS = av.video.reformatter.Interpolation
EXACT = _FLAGS.AREA | _FLAGS.FULL_CHR_H_INT | _FLAGS.FULL_CHR_H_INP | _FLAGS.ACCURATE_RND


def picture(number: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
  """uint8 (height, width, 3): red, green / blue, grey; five bars tell the number in bits."""
  rows, columns = np.arange(height) >= height // 2, np.arange(width) >= width // 2
  pixels = COLOURS[rows.astype(int)[:, None], columns.astype(int)[None]].copy()
  side, bar = min(height, width) // 8, width // 12
  left, top = width // 2 - 5 * bar // 2, height // 2 - side // 2
  for bit in range(5):
    level = 235 if number >> (4 - bit) & 1 else 20
    pixels[top : top + side, left + bit * bar : left + (bit + 1) * bar] = level
  return pixels


def quadrants(pixels_HWC: np.ndarray) -> np.ndarray:
  """The colours in the middles of the four quarters, (2, 2, 3)."""
  height, width = pixels_HWC.shape[:2]
  rows, columns = np.array([height // 5, -height // 5]), np.array([width // 5, -width // 5])
  return pixels_HWC[rows[:, None], columns[None]].astype(int)


def number(pixels_HWC: np.ndarray) -> int:
  """The frame's number, by its bars."""
  height, width = pixels_HWC.shape[:2]
  bar = width // 12
  left = width // 2 - 5 * bar // 2
  levels = [pixels_HWC[height // 2, left + bit * bar + bar // 2].mean() for bit in range(5)]
  return int(''.join(str(int(level > 127)) for level in levels), 2)


def encode(
  codec: str = 'libx264',
  container: str = 'mp4',
  pix_fmt: str = 'yuv420p',
  options: dict[str, str] | None = None,
  pictures: Sequence[np.ndarray] | int = 12,
  pts: Sequence[int] | None = None,
  rate: int = 12,
  matrix: int = 2,
  color_range: int = 0,
  transfer: int = 2,
  primaries: int = 2,
  tags: bool = True,
  aspect: fractions.Fraction | None = None,
  display: Sequence[int] | None = None,
  fields: str = '',
  muxing: dict[str, str] | None = None,
  prepare: Callable[[np.ndarray], tuple[np.ndarray, str]] | None = None,
) -> bytes:
  """A video file.

  Args:
    codec: FFmpeg's name of an encoder.
    container: FFmpeg's name of a format.
    pix_fmt: that is encoded.
    options: of the encoder.
    pictures: RGB, or how many of `picture`.
    pts: presentation times in thousandths of a second; None is a constant rate.
    rate: frames per second.
    matrix: number of the colour matrix in ITU-T H.273; 2, unspecified, is stored as BT.601.
    color_range: 1 for tv, 2 for pc, 0 for unspecified tv.
    transfer: as the file declares it.
    primaries: as the file declares them.
    tags: whether the file says matrix, range, transfer and primaries at all.
    aspect: of a pixel.
    display: the first two by two of the display matrix: a, b, c, d.
    fields: 'tff' or 'bff' codes the frames as interlaced.
    muxing: options of the container.
    prepare: pixels to what is converted to pix_fmt, and its format; the RGB itself if None.
  """
  if isinstance(pictures, int):
    pictures = [picture(number) for number in range(pictures)]
  buffer = io.BytesIO()
  with scheduling.kept(), av.open(buffer, 'w', container, options=muxing or {}) as output:
    options = dict(options or {})
    if fields:
      options |= {'flags': '+ilme+ildct', 'field_order': {'tff': 'tt', 'bff': 'bb'}[fields]}
    stream = output.add_stream(codec, rate=rate, options=options)
    stream.height, stream.width = pictures[0].shape[:2]
    stream.pix_fmt = pix_fmt
    context = stream.codec_context
    if tags:
      context.colorspace, context.color_range = matrix, color_range
      context.color_trc, context.color_primaries = transfer, primaries
    if aspect:
      context.sample_aspect_ratio = aspect
    if display is not None:
      a, b, c, d = display
      stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
    if pts is not None:
      context.time_base = fractions.Fraction(1, 1000)
    weave = _weaver(stream, fields, rate) if fields else None
    for index, pixels in enumerate(pictures):
      values, layout = prepare(pixels) if prepare else (pixels, 'rgb24')
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=layout)
      if pix_fmt != layout:
        frame = frame.reformat(
          format=pix_fmt, dst_colorspace=5 if matrix == 2 else matrix,
          dst_color_range=color_range or 1, interpolation=EXACT, threads=1,
        )  # fmt: skip
      frame.pts = index if pts is None else pts[index]
      frame.time_base = fractions.Fraction(1, rate) if pts is None else context.time_base
      if tags:
        frame.colorspace, frame.color_range = matrix, color_range
        frame.color_trc, frame.color_primaries = transfer, primaries
      output.mux(stream.encode(weave(frame) if weave else frame))
    output.mux(stream.encode())
  return buffer.getvalue()


def _weaver(stream: Any, fields: str, rate: int) -> Callable[[av.VideoFrame], av.VideoFrame]:
  """Marks frames as interlaced: PyAV's own have no such attribute to set."""
  graph = av.filter.Graph()
  nodes = [
    graph.add_buffer(
      width=stream.width, height=stream.height, format=av.VideoFormat(stream.pix_fmt),
      time_base=fractions.Fraction(1, rate),
    ),
    graph.add('setfield', fields),
    graph.add('buffersink'),
  ]  # fmt: skip
  graph.link_nodes(*nodes).configure()

  def weave(frame: av.VideoFrame) -> av.VideoFrame:
    graph.vpush(frame)
    return graph.vpull()

  return weave


def stored(shown: np.ndarray, display: Sequence[int]) -> np.ndarray:
  """What the matrix moves to where `shown` has it: (p, q) to (a p + c q, b p + d q)."""
  a, b, c, d = display
  height, width = shown.shape[:2] if a else shown.shape[1::-1]
  q, p = np.mgrid[:height, :width]
  x, y = a * p + c * q, b * p + d * q
  return shown[y - y.min(), x - x.min()]


def turned(display, **options):
  pictures = [stored(picture(number), display) for number in range(4)]
  return encode(pictures=pictures, display=display, options=H264, **options)


def fields_of_a_bar(count: int = 12, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
  """Frames of two moments each: a bright bar moves by four pixels from field to field."""
  moments = []
  for moment in range(2 * count):
    pixels = np.full((height, width, 3), 40, np.uint8)
    left = 8 + 4 * moment % (width - 24)
    pixels[:, left : left + 16] = 220
    moments.append(pixels)
  frames = []
  for first, second in zip(moments[::2], moments[1::2], strict=True):
    frames.append(first.copy())
    frames[-1][1::2] = second[1::2]
  return frames


def combing(pixels_HWC: np.ndarray) -> float:
  """How much neighbouring lines differ beyond what lines two apart do."""
  values = pixels_HWC.astype(float)
  near, far = np.abs(values[1:] - values[:-1]).mean(), np.abs(values[2:] - values[:-2]).mean()
  return near - far


def ffmpeg_path() -> str | None:
  """ffmpeg's own program, where the tests' requirements are installed."""
  try:
    import imageio_ffmpeg
  except ImportError:
    return None
  return imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_decode(
  data: bytes, height: int, width: int, filters: str = '', chroma: str = 'left'
) -> np.ndarray:
  """All frames by ffmpeg's own program, upright: uint8 (N, height, width, 3).

  Args:
    data: of the file.
    height: that ffmpeg shows, pixels.
    width: that ffmpeg shows, pixels.
    filters: before the conversion to RGB.
    chroma: where the coarser chroma lies: 'left' in all MPEG standards from the second on, which
      ffmpeg's scale filter assumes only if it is told; 'auto' takes the frame's word.
  """
  scale = f'scale={width}:{height}:flags=area+accurate_rnd+full_chroma_int'
  scale += f':in_chroma_loc={chroma}'
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'video'
    path.write_bytes(data)
    found = subprocess.run(
      [
        str(ffmpeg_path()), '-v', 'error', '-threads', '1', '-i', path, '-fps_mode', 'passthrough',
        '-vf', ','.join(filter(None, [filters, scale])), '-pix_fmt', 'rgb24', '-f', 'rawvideo', '-',
      ],
      capture_output=True, check=True,
    )  # fmt: skip
  return np.frombuffer(found.stdout, np.uint8).reshape(-1, height, width, 3)


def animated_gif(count: int = 12) -> bytes:
  """A GIF of ten frames per second, of the drawn colours to the bit."""
  images = [PIL.Image.fromarray(picture(number)) for number in range(count)]
  buffer = io.BytesIO()
  images[0].save(buffer, 'gif', save_all=True, append_images=images[1:], duration=100)
  return buffer.getvalue()
