"""Single records of a shard in a bucket, by ranged reads: one request each.

array_record reads local files only. What `ingest` writes (one record per chunk, uncompressed) is
simple enough to find: the last 64 KiB block says where the footer is, the footer where each chunk
begins. Manifests tell the first of these (`Layout`), so that a shard is opened by one request. A
chunk is then put where it belongs in a file in memory that is else a hole, and read from there by
array_record, which verifies the hashes of chunk and footer. Sources: array_record's
cpp/layout.proto, and riegeli's doc/riegeli_records_file_format.md.
"""

import contextlib
import os
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import fsspec
import numpy as np
from array_record.python import array_record_module
from etils import epath

from data_pipelines.corpus import disk_cache, retries

_BLOCK = 1 << 16  # Bytes; each begins with a header, also within a chunk.
_BLOCK_HEADER = 24
_CHUNK_HEADER = 40
_MAGIC = 0x71930E704FDAE05E  # Of the postscript.
# Verifies the footer; then it need not be read whole again, which took 1 ms of 10,000 records.
_VERIFIED = 'readahead_buffer_size:0,max_parallelism:0'
_KNOWN = f'{_VERIFIED},index_storage_option:offloaded,footer_prefetch_bytes:0'
# What array_record says of damage.
DAMAGE = (RuntimeError, ValueError, IndexError)
_GUESS = 4 * _BLOCK  # Bytes that hold the footer of most shards: up to some 16,000 records.


class Layout(NamedTuple):
  """Of a shard's file.

  Attributes:
    size: bytes.
    footer: where the footer begins.
    sha256: hex digest; '' if it is not known.
  """

  size: int
  footer: int
  sha256: str = ''


class Reader:
  """As array_record's ArrayRecordReader, as far as reader.Records needs it.

  Args:
    url: of the shard, in a file system that fsspec knows.
    layout: of its file; if None, it takes another request or two to find.
    cache: of what was fetched, for files whose digest is known.
  Attributes:
    layout: of its file.
  Raises:
    ValueError, RuntimeError: that is no shard of uncompressed, single records, or is damaged.
    FileNotFoundError: it is not there.
    StorageError: the file system does not answer.
  """

  def __init__(
    self,
    url: str,
    layout: Layout | None = None,
    cache: disk_cache.DiskCache | None = None,
  ):
    self._filesystem, self._path = fsspec.core.url_to_fs(url)
    self._cache = cache if layout and layout.sha256 else None
    if layout is None:
      self.layout, self._tail = self._find()
      self._offsets = self._verified_offsets()
      return
    self.layout = layout
    try:
      self._tail = self._fetch(layout.footer, layout.size)
      self._offsets = self._verified_offsets()
    except DAMAGE:  # On its way, or on the local disk.
      self._tail = self._fetch(layout.footer, layout.size, afresh=True)
      self._offsets = self._verified_offsets()

  def _verified_offsets(self) -> np.ndarray:
    """Chunk i lies between offsets i and i + 1; these and the tail, 12 bytes each, are held."""
    # The last block holds the postscript alone; the footer ends before it.
    entries = self._tail[: self.layout.size - _BLOCK - self.layout.footer]
    _, *found = map(_fields, _records(self._content(entries, self.layout.footer)))
    with self._opened(_VERIFIED) as reader:
      if reader.num_records() != sum(entry.get(3, 0) for entry in found):  # 0 if that is damaged.
        raise ValueError(f'{self._path} is damaged: its footer is not what its hash says.')
    if any(entry.get(3) != 1 for entry in found):
      raise ValueError(f'{self._path} has more than one record per chunk: ingest the corpus again.')
    return np.array([*(entry[1] for entry in found), self.layout.footer], np.int64)

  def _find(self) -> tuple[Layout, bytes]:
    """(layout, the file's bytes from the footer on)."""
    size = retries.call(self._filesystem.size, self._path)
    if size < 2 * _BLOCK:
      raise ValueError(f'{self._path} is too short for a shard: {size} bytes.')
    end = self._fetch(max(0, size - _GUESS), size)
    postscript = _fields(_records(self._content(end[-_BLOCK:], size - _BLOCK))[0])
    if postscript.get(2) != _MAGIC:
      raise ValueError(f'{self._path} is no ArrayRecord file, or is cut off.')
    footer = postscript.get(1, 0)
    if not 0 < footer < size - _BLOCK:
      raise ValueError(f'{self._path} is damaged: its footer cannot be at {footer}.')
    layout = Layout(size, footer)
    is_there = size - footer <= len(end)
    return layout, end[footer - size :] if is_there else self._fetch(footer, size)

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
    except DAMAGE:
      return self._read_once(index, afresh=True)

  def _read_once(self, index: int, afresh: bool = False) -> bytes:
    start, end = self._offsets[index : index + 2].tolist()
    with self._opened(_KNOWN, self._fetch(start, end, afresh), start) as reader:
      [record] = reader.read([index])
    return record

  @contextlib.contextmanager
  def _opened(self, options: str, chunk: bytes = b'', start: int = 0) -> Generator[Any, None, None]:
    """array_record's reader of the shard, of which the footer and this chunk are there."""
    file = os.memfd_create('shard')
    try:
      os.ftruncate(file, self.layout.size)
      _write(file, self._tail, self.layout.footer)
      _write(file, chunk, start)
      reader = array_record_module.ArrayRecordReader(
        f'/proc/self/fd/{file}', options=options, file_reader_buffer_size=_BLOCK
      )
      yield reader
    finally:
      os.close(file)

  def _fetch(self, start: int, end: int, afresh: bool = False) -> bytes:
    """Bytes of the file, from the cache if they are there; but not `afresh`."""
    if self._cache is None:
      return self._request(start, end)
    name = f'{self.layout.sha256} {start} {end}'
    found = None if afresh else self._cache.get(name)
    if found is None:
      found = self._request(start, end)
      self._cache.put(name, found)
    return found

  def _request(self, start: int, end: int) -> bytes:
    try:
      found = retries.call(self._filesystem.cat_file, self._path, start=start, end=end)
    except Exception as error:
      if retries.status_of(error) == 416:
        raise ValueError(f'{self._path} is cut off: it has no bytes from {start} on.') from error
      raise
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


def layout_of(path: epath.PathLike) -> Layout:
  """Of a shard anywhere; raises as Reader."""
  url = str(path)
  return Reader(url if '://' in url else f'file://{url}').layout


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
