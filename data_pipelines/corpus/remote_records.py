"""Single records of a shard in a bucket, by ranged reads: one request each.

array_record reads local files only. What `ingest` writes (one record per chunk, uncompressed) is
simple enough to find: the last 64 KiB block says where the footer is, the footer where each chunk
begins. A chunk is then put where it belongs in a file in memory that is else a hole, and read from
there by array_record, which verifies the hashes of chunk and footer. Sources: array_record's
cpp/layout.proto, and riegeli's doc/riegeli_records_file_format.md.
"""

import contextlib
import os
from collections.abc import Generator, Sequence
from typing import Any

import fsspec
import numpy as np
from array_record.python import array_record_module

from data_pipelines.corpus import retries

_BLOCK = 1 << 16  # Bytes; each begins with a header, also within a chunk.
_BLOCK_HEADER = 24
_CHUNK_HEADER = 40
_MAGIC = 0x71930E704FDAE05E  # Of the postscript.
# Verifies the footer; then it need not be read whole again, which took 1 ms of 10,000 records.
_VERIFIED = 'readahead_buffer_size:0,max_parallelism:0'
_KNOWN = f'{_VERIFIED},index_storage_option:offloaded,footer_prefetch_bytes:0'
# What array_record says of damage.
DAMAGE = (RuntimeError, ValueError, IndexError)


class Reader:
  """As array_record's ArrayRecordReader, as far as reader.Records needs it.

  Args:
    url: of the shard, in a file system that fsspec knows.
  Raises:
    ValueError, RuntimeError: that is no shard of uncompressed, single records, or is damaged.
    FileNotFoundError: it is not there.
    StorageError: the file system does not answer.
  """

  def __init__(self, url: str):
    self._filesystem, self._path = fsspec.core.url_to_fs(url)
    self._size = retries.call(self._filesystem.size, self._path)
    if self._size < 2 * _BLOCK:
      raise ValueError(f'{url} is too short for a shard: {self._size} bytes.')
    last = self._fetch(self._size - _BLOCK, self._size)
    postscript = _fields(_records(self._content(last, self._size - _BLOCK))[0])
    if postscript.get(2) != _MAGIC:
      raise ValueError(f'{url} is no ArrayRecord file, or is cut off.')
    footer = postscript.get(1, 0)
    if not 0 < footer < self._size - _BLOCK:
      raise ValueError(f'{url} is damaged: its footer cannot be at {footer}.')
    entries = self._fetch(footer, self._size - _BLOCK)
    self._tail = entries + last
    _, *found = map(_fields, _records(self._content(entries, footer)))
    with self._opened(_VERIFIED) as reader:
      if reader.num_records() != sum(entry.get(3, 0) for entry in found):  # 0 if that is damaged.
        raise ValueError(f'{url} is damaged: its footer is not what its hash says.')
    if any(entry.get(3) != 1 for entry in found):
      raise ValueError(f'{url} has more than one record per chunk: ingest the corpus again.')
    # Chunk i lies between offsets i and i + 1; these and the tail, 12 bytes each, stay in memory.
    self._offsets = np.array([*(entry[1] for entry in found), footer], np.int64)

  def num_records(self) -> int:
    """Of the shard."""
    return len(self._offsets) - 1

  def read(self, indices: Sequence[int]) -> list[bytes]:
    """The records at these places.

    Raises:
      ValueError, RuntimeError, IndexError: one is damaged, also when it is read once more.
      StorageError: as the class.
    """
    return [self._read(index) for index in indices]

  def _read(self, index: int) -> bytes:
    if not 0 <= index < self.num_records():
      raise ValueError(f'record {index} is not among the {self.num_records()} of {self._path}.')
    try:
      return self._read_once(index)
    except DAMAGE:  # It may have been damaged on its way.
      return self._read_once(index)

  def _read_once(self, index: int) -> bytes:
    start, end = self._offsets[index : index + 2].tolist()
    with self._opened(_KNOWN, self._fetch(start, end), start) as reader:
      [record] = reader.read([index])
    return record

  @contextlib.contextmanager
  def _opened(self, options: str, chunk: bytes = b'', start: int = 0) -> Generator[Any, None, None]:
    """array_record's reader of the shard, of which the footer and this chunk are there."""
    file = os.memfd_create('shard')
    try:
      os.ftruncate(file, self._size)
      _write(file, self._tail, self._size - len(self._tail))
      _write(file, chunk, start)
      reader = array_record_module.ArrayRecordReader(
        f'/proc/self/fd/{file}', options=options, file_reader_buffer_size=_BLOCK
      )
      yield reader
    finally:
      os.close(file)

  def _fetch(self, start: int, end: int) -> bytes:
    found = retries.call(self._filesystem.cat_file, self._path, start=start, end=end)
    if len(found) != end - start:
      raise ValueError(f'{self._path} has {len(found)} bytes from {start} on, not {end - start}.')
    return found

  def _content(self, raw: bytes, start: int) -> bytes:
    """A chunk's data, without the headers of blocks and chunk."""
    parts, position = [], 0
    for block in range(-start % _BLOCK, len(raw), _BLOCK):
      parts.append(raw[position:block])
      position = block + _BLOCK_HEADER
    whole = b''.join([*parts, raw[position:]])
    size = int.from_bytes(whole[8:16], 'little')
    data = whole[_CHUNK_HEADER : _CHUNK_HEADER + size]
    if len(data) < size or whole[24:25] != b'r':
      raise ValueError(f'{self._path} has no whole chunk of records at {start}.')
    return data


def _write(file: int, data: bytes, offset: int) -> None:
  """All of it: one call writes 2 GiB at most."""
  view = memoryview(data)
  while view:
    written = os.pwrite(file, view, offset)
    view, offset = view[written:], offset + written


def _records(data: bytes) -> list[bytes]:
  """Those of a simple chunk: compression, size of the sizes, the sizes, the values."""
  if data[:1] != b'\0':
    raise ValueError('the shard is compressed, and can be read from a disk only.')
  num_bytes, position = _varint(data, 1)
  end = position + num_bytes
  records, value = [], end
  while position < end:
    size, position = _varint(data, position)
    records.append(data[value : value + size])
    value += size
  if value != len(data):
    raise ValueError('the sizes of the records do not add up to their chunk.')
  return records


def _fields(message: bytes) -> dict[int, int]:
  """The numbers of a protocol buffer by field; fields of bytes are left out."""
  found, position = {}, 0
  while position < len(message):
    tag, position = _varint(message, position)
    value, position = _varint(message, position)
    if tag & 7 == 2:
      position += value
    else:
      found[tag >> 3] = value
  return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
  """(number, position behind it)."""
  value = shift = 0
  while True:
    byte = data[position]
    position += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, position
    shift += 7
