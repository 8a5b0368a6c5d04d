"""Opens a file of video: which formats are read, which stream is the video, what is too big.

FFmpeg reads more than media. Playlists (HLS, DASH, concat), session descriptions (SDP) and numbered
images name other files and addresses, which would then be opened, whatever the file's own name is.
So formats are allowed by name, and of protocols none.
"""

import contextlib
import fractions
import io
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import av
from av.container import InputContainer
from av.stream import Disposition

from data_pipelines.media import cropping, errors
from data_pipelines.media.errors import DecodeError

# By FFmpeg's names of its readers; each keeps the media in the file itself.
FORMATS = (
  'mov', 'mp4', 'matroska', 'webm', 'avi', 'mpegts', 'mpeg', 'flv', 'asf', 'ogg', 'mxf', 'dv',
  'ivf', 'nut', 'wtv', 'gif', 'apng', 'yuv4mpegpipe', 'mpegvideo', 'm4v', 'h264', 'hevc', 'obu',
)  # fmt: skip
MAX_PIXELS = 36_000_000  # Of a frame: 8K. Sixteen of them, which a decoder may hold, are 0.9 GB.
MAX_STREAMS = 100
_NO_TAG = 2  # AVCOL_TRC_UNSPECIFIED, and of matrices.
_PROGRESSIVE = 1  # AV_FIELD_PROGRESSIVE; 0 is unknown, above are the orders of fields.
# Codecs that do not keep which of their frames are interlaced: the container's word counts.
_SILENT_ON_FIELDS = frozenset(
  ('rawvideo', 'huffyuv', 'ffvhuff', 'utvideo', 'v210', 'qtrle', 'png', 'magicyuv', 'jpeg2000')
)
_NOTHING_ELSE = dict(protocol_whitelist='none')
_WHAT_MAY_BE_OPENED = _NOTHING_ELSE | dict(
  format_whitelist=','.join(FORMATS), max_streams=str(MAX_STREAMS)
)
# FFmpeg finds out by decoding what the header lacks; an mp4's lacks nothing, and a decoder that is
# opened only to guess takes half of the time of opening a small file.
_MP4 = _NOTHING_ELSE | dict(codec_whitelist='none')
_COVER_ART = int(Disposition.attached_pic)
_LIMITS = dict(max_pixels=str(MAX_PIXELS))
# Finding out the streams of a file decodes their first frames: 4 of the 40 ms that a clip takes.
DECODE_NOTHING_AT_OPEN = ({'skip_frame': 'all'},) * 8


class Video(NamedTuple):
  """An opened file, and what its header says of the frames that they may not say themselves.

  Attributes:
    container: of the file.
    stream: its video.
    tick: seconds, the unit of its times.
    transfer: number of the transfer function in ITU-T H.273; 2 is unspecified.
    matrix: of the colour matrix, likewise.
    fields: '' where the frames tell whether they are interlaced, else 'tff' or 'bff': they are, and
      this field comes first.
    crop: what of the frames is not shown.
  """

  container: InputContainer
  stream: av.VideoStream
  tick: float
  transfer: int = _NO_TAG
  matrix: int = _NO_TAG
  fields: str = ''
  crop: cropping.Crop = cropping.Crop()

  @property
  def aspect(self) -> float:
    """Width of a pixel over its height, by container or codec; once a frame is decoded."""
    context = self.stream.codec_context
    return float(self.stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)

  @property
  def start_time(self) -> float:
    """Presentation time of the first frame by the header, seconds; 0 if it says none."""
    return (self.stream.start_time or 0) * self.tick


@contextlib.contextmanager
def open_video(
  data: bytes, stream_options: Sequence[Mapping[str, str]] = ()
) -> Generator[Video, None, None]:
  """Yields the opened video.

  Args:
    data: of the file.
    stream_options: FFmpeg's options for the streams, in their order, while they are found out;
      such as DECODE_NOTHING_AT_OPEN. Of an mp4 nothing is found out so.
  Raises:
    DecodeError: no video can be read, or it is too large.
  """
  with _open(data, stream_options) as container:
    stream = _choose(container, data)
    context = stream.codec_context
    context.options = _LIMITS
    context.thread_count = 1  # The loader's parallelism is over examples.
    if context.width * context.height > MAX_PIXELS:
      raise DecodeError(
        'too_large', f'{context.width}x{context.height} is more than {MAX_PIXELS} pixels.'
      )
    fields = ''
    if context.name in _SILENT_ON_FIELDS and context.field_order > _PROGRESSIVE:
      fields = 'bff' if context.field_order in (3, 5) else 'tff'
    crop = cropping.Crop()
    if len(container.streams.video) == 1:
      crop = cropping.declared(data, container.format.name, context.height, context.width)
    yield Video(
      container,
      stream,
      float(cast(fractions.Fraction, stream.time_base)),  # Only what is written may have none.
      context.color_trc,
      context.colorspace,
      fields,
      crop,
    )


def _open(data: bytes, stream_options: Sequence[Mapping[str, str]] = ()) -> InputContainer:
  if not data:
    raise DecodeError('open', 'the file is empty.')
  # An mp4 is known by its first box; FFmpeg would try all its formats.
  layout = 'mp4' if data[4:8] == b'ftyp' else None
  options: dict[str, Any] = dict(container_options=_MP4 if layout else _WHAT_MAY_BE_OPENED)
  if not layout:
    options |= dict(stream_options=stream_options) if stream_options else dict(options=_LIMITS)
  try:
    return av.open(io.BytesIO(data), 'r', layout, metadata_errors='replace', **options)
  except errors.FFMPEG_ERRORS as error:
    if isinstance(error, av.ArgumentError) and not layout:  # FFmpeg says no more.
      detail = f'it begins with {data[:12]!r}: none of {", ".join(FORMATS)}'
      raise DecodeError('open', detail) from error
    raise errors.of(error, 'open') from error


def _choose(container: InputContainer, data: bytes) -> av.VideoStream:
  """As ffmpeg does: the largest, one marked as default before others, no cover art.

  A stream of a single packet is a picture, whatever the container calls it.
  """
  streams = [s for s in container.streams.video if s.codec_context is not None]
  if not streams:
    if container.streams.video:
      raise DecodeError('codec', 'the codec of its video stream is not known.')
    raise DecodeError('no_video', 'there is no video stream.')
  moving = [s for s in streams if not int(s.disposition) & _COVER_ART]
  if len(moving) == 1:
    return moving[0]
  if moving:
    counts = _num_packets(data, [s.index for s in moving])
    most = max(counts.values())
    moving = [s for s in moving if counts[s.index] > 1 or most < 2]
  if not moving:
    raise DecodeError('no_video', 'there is cover art and no video stream.')
  return max(moving, key=_rank)


def _rank(stream: av.VideoStream) -> tuple[int, int]:
  is_default = bool(stream.disposition & Disposition.default)
  area = stream.codec_context.width * stream.codec_context.height
  return area + 5_000_000 * is_default, -stream.index


def _num_packets(data: bytes, indices: Sequence[int]) -> dict[int, int]:
  """Up to two of each stream, by its index."""
  counts = dict.fromkeys(indices, 0)
  with _open(data) as container:
    with contextlib.suppress(*errors.FFMPEG_ERRORS):  # What is damaged is counted so far.
      for packet in container.demux(*(container.streams[index] for index in indices)):
        if packet.size and packet.stream_index in counts:  # Not all readers keep to what is asked.
          counts[packet.stream_index] += 1
        if min(counts.values()) > 1:
          break
  return counts
