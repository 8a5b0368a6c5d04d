"""Single records of a shard in a bucket, by ranged reads: one request each, and no local copy.

array_record reads local files only. What `ingest` writes (one record per chunk, uncompressed) is
simple enough to find: the last 64 KiB block says where the footer is, the footer where each chunk
begins. Sources: array_record's cpp/layout.proto, and riegeli's doc/riegeli_records_file_format.md.
"""

import fsspec
import numpy as np

_BLOCK = 1 << 16  # Bytes; each begins with a header, also within a chunk.
_BLOCK_HEADER = 24
_CHUNK_HEADER = 40
_MAGIC = 0x71930E704FDAE05E  # Of the postscript.


class Reader:
  """As array_record's ArrayRecordReader, as far as reader.Records needs it.

  Args:
    url: of the shard, in a file system that fsspec knows.
  Raises:
    ValueError: that is no shard of uncompressed, single records.
    OSError: it cannot be read.
  """

  def __init__(self, url: str):
    self._filesystem, self._path = fsspec.core.url_to_fs(url)
    size = self._filesystem.size(self._path)
    if size < 2 * _BLOCK:
      raise ValueError(f'{url} is too short for a shard: {size} bytes.')
    postscript = _fields(_records(self._chunk(size - _BLOCK, size))[0])
    if postscript.get(2) != _MAGIC:
      raise ValueError(f'{url} is no ArrayRecord file, or is cut off.')
    footer = postscript[1]
    _, *found = map(_fields, _records(self._chunk(footer, size - _BLOCK)))
    if any(entry.get(3) != 1 for entry in found):
      raise ValueError(f'{url} has more than one record per chunk: ingest the corpus again.')
    # Chunk i lies between offsets i and i + 1; 8 bytes per record stay in memory.
    self._offsets = np.array([*(entry[1] for entry in found), footer], np.int64)

  def num_records(self) -> int:
    """Of the shard."""
    return len(self._offsets) - 1

  def read(self, indices: list[int]) -> list[bytes]:
    """The records at these places."""
    return [self._read(index) for index in indices]

  def _read(self, index: int) -> bytes:
    if not 0 <= index < self.num_records():
      raise ValueError(f'record {index} is not among the {self.num_records()} of {self._path}.')
    start, end = self._offsets[index : index + 2].tolist()
    [record] = _records(self._chunk(start, end))
    return record

  def _chunk(self, start: int, end: int) -> bytes:
    """A chunk's data, between two offsets, without the headers of blocks and chunk."""
    raw = self._filesystem.cat_file(self._path, start=start, end=end)
    if len(raw) != end - start:
      raise ValueError(f'{self._path} has {len(raw)} bytes from {start} on, not {end - start}.')
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
