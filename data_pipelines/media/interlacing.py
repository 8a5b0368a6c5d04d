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
  previous, graph = None, None
  for frame in frames:
    if graph is None and not fields and not frame.interlaced_frame:
      yield frame
    else:
      if graph is None or not graph.takes(frame):
        if graph is not None:
          yield from graph.rest()
        graph, is_first = _Bwdif(frame, fields), previous is None
        if not is_first and graph.takes(previous):
          list(graph(previous))
          graph.waiting[0] = None  # It was shown already; the next one's neighbour.
      yield from graph(frame)
    previous = frame
  if graph is not None:
    yield from graph.rest()


class _Bwdif:
  """The filter for frames of one size and format: one out for each in, one frame later."""

  def __init__(self, frame: av.VideoFrame, fields: str):
    self._kind = _kind(frame)
    self.waiting: deque[av.VideoFrame | None] = deque()
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
    return _kind(frame) == self._kind

  def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Yields what is done after this frame; None is the end."""
    try:
      self._graph.vpush(frame)
      if frame is not None:
        self.waiting.append(frame)
      while self.waiting:
        done = self._graph.vpull()
        stored = self.waiting.popleft()
        if stored is not None:
          done.pts, done.time_base = stored.pts, stored.time_base
          yield done
    except (av.BlockingIOError, av.EOFError):
      return
    except errors.FFMPEG_ERRORS as error:
      raise errors.of(error, 'deinterlace') from error

  def rest(self) -> Iterator[av.VideoFrame]:
    yield from self(None)


def _kind(frame: av.VideoFrame) -> tuple:
  return frame.width, frame.height, frame.format.name
