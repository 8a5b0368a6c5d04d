"""Reads of records that fail as those of a bucket do, in the processes that decode."""

import pathlib
from typing import Any

from data_pipelines.corpus import reader
from data_pipelines.stream import sandboxed_decoder

# Files in the folder of a run.
STRUCK = 'struck'  # There once a fault came.
LEFT = 'reads_to_fail'  # How many of the next reads fail, as a number in it.


def hook(folder: pathlib.Path) -> None:
  """Lets the reads of all decoders of this process fail as often as LEFT then says."""
  original = sandboxed_decoder.SandboxedDecoder.__init__

  def made(self: sandboxed_decoder.SandboxedDecoder, *args: Any, **kwargs: Any) -> None:
    original(self, *args, **kwargs)
    self.sandbox.function = _Failing(self.sandbox.function, folder)

  sandboxed_decoder.SandboxedDecoder.__init__ = made


class _Failing:
  """What a child is given to call, in place of `function`."""

  def __init__(self, function: Any, folder: pathlib.Path):
    self._function, self._folder = function, folder

  def prepare(self) -> None:
    """In the child, once."""
    _fail_reads(self._folder)
    self._function.prepare()

  def __call__(self, *arguments: Any) -> Any:
    return self._function(*arguments)


def _fail_reads(folder: pathlib.Path) -> None:
  original = reader.Records._read

  def read(self: reader.Records, *args: Any) -> Any:
    file = folder / LEFT
    left = int(file.read_text() or 0) if file.exists() else 0
    if left > 0:
      file.write_text(str(left - 1))
      (folder / STRUCK).touch()
      raise OSError('503 Service Unavailable')
    return original(self, *args)

  reader.Records._read = read
