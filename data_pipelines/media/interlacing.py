"""Interlaced frames, two moments woven line by line, become frames of one moment: FFmpeg's bwdif.

The filter looks at the frames before and after, so it is given all of them in turn.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import av
import av.filter

from data_pipelines.media import errors


def progressive(frames: Iterable[av.VideoFrame], fields: str = '') -> Iterator[av.VideoFrame]:
  """Yields each frame, the interlaced ones as their first field, its other lines interpolated.

  Args:
    frames: neighbours, in presentation order.
    fields: 'tff' or 'bff' if all are interlaced though they do not say so.
  Raises:
    DecodeError: the filter refuses a frame.
  """
  previous: av.VideoFrame | None = None
  graph: _Bwdif | None = None
  for frame in frames:
    if graph is None and not fields and not frame.interlaced_frame:
      yield frame
    else:
      if graph is not None and not graph.takes(frame):
        yield from graph(None)
        graph = None
      if graph is None:
        graph = _Bwdif(frame, fields)
        if previous is not None and graph.takes(previous):
          graph.start_after(previous)
      yield from graph(frame)
    previous = frame
  if graph is not None:
    yield from graph(None)


class _Bwdif:
  """The filter for frames of one size and format: one out for each in, one frame later."""

  def __init__(self, frame: av.VideoFrame, fields: str):
    self._kind = _kind(frame)
    self._waiting: deque[av.VideoFrame | None] = deque()
    self._graph = av.filter.Graph()
    nodes = [self._graph.add_buffer(
      width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )]  # fmt: skip
    if fields:
      nodes.append(self._graph.add('setfield', fields))
    which = 'all' if fields else 'interlaced'
    nodes.append(self._graph.add('bwdif', f'mode=send_frame:parity=auto:deint={which}'))
    nodes.append(self._graph.add('buffersink'))
    self._graph.link_nodes(*nodes).configure()

  def takes(self, frame: av.VideoFrame) -> bool:
    """False for a frame of another size or format."""
    return _kind(frame) == self._kind

  def start_after(self, frame: av.VideoFrame) -> None:
    """Makes a frame, shown already, the first one's neighbour."""
    list(self(frame))
    self._waiting[0] = None

  def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Yields what is done after this frame; None is the end."""
    try:
      self._graph.vpush(frame)
      if frame is not None:
        self._waiting.append(frame)
      while self._waiting:
        done = self._graph.vpull()
        stored = self._waiting.popleft()
        if stored is not None:
          done.pts, done.time_base = stored.pts, stored.time_base
          yield done
    except (av.BlockingIOError, av.EOFError):
      return
    except errors.FFMPEG_ERRORS as error:
      raise errors.of(error, 'deinterlace') from error


def _kind(frame: av.VideoFrame) -> tuple:
  return frame.width, frame.height, frame.format.name
