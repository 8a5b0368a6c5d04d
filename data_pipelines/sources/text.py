r"""Text of others: lists, captions and tables, in UTF-8 or with the mark (BOM) of UTF-16 or UTF-32.

Lines end with \n, \r or \r\n and with nothing else: U+2028, U+0085 and form feeds stand inside of
captions, and `str.splitlines` would cut there. Nothing is ever replaced: bytes that are no text in
the file's encoding come as lone surrogates, which `is_clean` finds, and the line is rejected.
"""

import bz2
import codecs
import gzip
import io
import lzma
import pathlib
from collections.abc import Iterator
from typing import IO, cast

import pyarrow as pa
from etils import epath

# UTF-32 begins with the mark of UTF-16.
_MARKS = {
  codecs.BOM_UTF32_LE: 'utf-32-le',
  codecs.BOM_UTF32_BE: 'utf-32-be',
  codecs.BOM_UTF8: 'utf-8',
  codecs.BOM_UTF16_LE: 'utf-16-le',
  codecs.BOM_UTF16_BE: 'utf-16-be',
}
_COMPRESSED = {b'\x1f\x8b': 'gz', b'BZh': 'bz2', b'\xfd7zXZ\x00': 'xz', b'\x28\xb5\x2f\xfd': 'zst'}
MAX_LINE = 1 << 20  # Characters: a longer one is no line of a list, and comes in pieces.


def decode(data: bytes) -> str:
  """The text of a whole file, without its mark.

  Raises:
    ValueError: the bytes are no text in their encoding, or hold NUL, as UTF-16 without a mark does.
  """
  codec, start = _encoding(data[:4])
  try:
    text = data[start:].decode(codec)
  except UnicodeDecodeError as error:
    raise ValueError(f'not {codec.upper()}: {error}') from error
  if '\0' in text:
    raise ValueError('it holds NUL: binary, or UTF-16 without a mark')
  return text


class Lines:
  """The lines of a file with their ends, one by one, and where each ends.

  Args:
    file: local or in a bucket.
    start: byte where a line begins; the mark, if any, is skipped at 0.
    num_bytes: that are read from there; None is all.

  Attributes:
    position: byte behind the line that came last.

  Raises:
    ValueError: the file is UTF-16 or UTF-32 without a mark.
  """

  def __init__(self, file: epath.Path, start: int = 0, num_bytes: int | None = None):
    with file.open('rb') as stream:
      head = stream.read(4)
      self._codec, mark = _encoding(head)
      if self._codec == 'utf-8' and b'\0' in head:
        raise ValueError(f'{file} holds NUL: UTF-16 without a mark? Save it as UTF-8.')
    self._file, self._num_bytes = file, num_bytes
    self.position = max(start, mark)
    # Only these two give any bytes back as they were.
    self._errors = 'surrogateescape' if self._codec == 'utf-8' else 'surrogatepass'

  def __iter__(self) -> Iterator[str]:
    with self._file.open('rb') as stream:
      stream.seek(self.position)
      if self._num_bytes is not None:
        stream = io.BytesIO(stream.read(self._num_bytes))
      for line in wrap(stream, self._codec):
        self.position += len(line.encode(self._codec, self._errors))
        yield line


def wrap(stream: IO[bytes], codec: str) -> Iterator[str]:
  """Lines of a stream behind its mark; raises ValueError if a character is cut at the end.

  Args:
    stream: of bytes.
    codec: its encoding, by Python's name.
  """
  errors = 'surrogateescape' if codec == 'utf-8' else 'surrogatepass'
  text = io.TextIOWrapper(stream, encoding=codec, errors=errors, newline='')
  try:
    while line := text.readline(MAX_LINE):
      yield line
  except UnicodeDecodeError as error:
    raise ValueError(f'it is cut within a character of {codec.upper()}: {error}') from error
  finally:
    text.detach()


def open_lines(file: epath.Path) -> Iterator[str]:
  """The lines of a file that may be compressed: gzip, bzip2, xz or zstd, by its first bytes."""
  with file.open('rb') as stream:
    magic = stream.read(6)
    stream.seek(0)
    kind = next((kind for start, kind in _COMPRESSED.items() if magic.startswith(start)), '')
    plain = cast(io.BufferedIOBase, _decompressed(stream, kind))
    buffered = io.BufferedReader(cast(io.RawIOBase, plain))
    codec, mark = _encoding(buffered.peek(4)[:4])
    buffered.read(mark)
    yield from wrap(buffered, codec)


def _decompressed(stream: IO[bytes], kind: str) -> IO[bytes]:
  if kind == 'zst':
    return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(stream), 'zstd'))
  openers = dict(gz=gzip.open, bz2=bz2.open, xz=lzma.open)
  return cast(IO[bytes], openers[kind](stream)) if kind else stream


def bare_suffix(name: str) -> str:
  """The suffix of a file's name in lower case, without that of its compression."""
  path = pathlib.PurePath(name)
  if path.suffix.lower().removeprefix('.') in ('gz', 'bz2', 'xz', 'zst'):
    path = path.with_suffix('')
  return path.suffix.lower()


def is_clean(text: str) -> bool:
  """Whether all of it was text in its encoding, and can be written as UTF-8."""
  try:
    text.encode()
  except UnicodeEncodeError:
    return False
  return '\0' not in text


def _encoding(head: bytes) -> tuple[str, int]:
  """(codec, bytes of the mark) by a file's first four bytes."""
  for mark, codec in _MARKS.items():
    if head.startswith(mark):
      return codec, len(mark)
  return 'utf-8', 0
