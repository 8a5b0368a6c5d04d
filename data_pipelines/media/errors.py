"""What goes wrong with media, by a short code that can be counted."""

import av

FFMPEG_ERRORS = (av.FFmpegError, ValueError, OSError, EOFError, MemoryError)


class DecodeError(ValueError):
  """Media that cannot be used: `reason` is a short code to count by."""

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason}: {detail}' if detail else reason)
    self.reason = reason
    self.detail = detail

  def __reduce__(self):  # Else it would not come back from another process.
    return type(self), (self.reason, self.detail)


def of(error: BaseException, reason: str, detail: str = '') -> DecodeError:
  """The error as a DecodeError: itself if it is one, else with its own text in the detail.

  Args:
    error: one of FFMPEG_ERRORS.
    reason: unless memory ran out, which is 'memory' wherever it happens.
    detail: what precedes the error's text.
  """
  if isinstance(error, DecodeError):
    return error
  if isinstance(error, MemoryError):
    reason = 'memory'
  if isinstance(error, av.InvalidDataError):
    text = 'the file is damaged, cut off, or of another kind than its name says.'
  else:
    text = str(error) or type(error).__name__
  return DecodeError(reason, detail + text)
