"""Files on a disk or in a bucket (gs://, s3://), written whole or not at all.

A rename is atomic on a disk, an upload in a bucket: on the one a file is written beside its place
and renamed, to the other it is uploaded in one go. Requests that fail for a while (retries.py) are
sent again.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import IO, Any

import fsspec
import fsspec.config
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines import user_errors
from data_pipelines.corpus import retries

# Workers elsewhere write where this process has listed: what it remembers of that is soon wrong.
for _protocol in ('s3', 'gs', 'gcs'):
  fsspec.config.conf.setdefault(_protocol, {}).setdefault('use_listings_cache', False)


IN_FLIGHT = 32  # Requests of a process at a time, where one does not need another's answer.


def is_local(path: epath.PathLike) -> bool:
  """False in a bucket."""
  return '://' not in str(path)


def write_bytes(path: epath.Path, data: bytes) -> None:
  """Writes a file whole; its folder is made."""
  if not is_local(path):
    retries.call(path.write_bytes, data)
  else:
    retries.call(_write_beside, path, data)


def _write_beside(path: epath.Path, data: bytes) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'{path.name}.part')
  partial.write_bytes(data)
  os.replace(partial, path)


def create_new(path: epath.Path, data: bytes) -> bool:
  """Writes a file whole unless it is there; of several who try at once, one is told True."""
  return replace_if(path, data, '') is not None


def read_version(path: epath.Path) -> tuple[bytes, str] | None:
  """(content, version for `replace_if`) of a file, or None if there is none."""
  try:
    if is_local(path):
      data = path.read_bytes()
      return data, hashlib.sha256(data).hexdigest()
    filesystem, name = fsspec.core.url_to_fs(str(path))
    # Content that is newer than its version is harmless: `replace_if` then declines.
    info = retries.call(filesystem.info, name)
    return retries.call(filesystem.cat_file, name), str(info.get('generation') or info['ETag'])
  except FileNotFoundError:
    return None


def replace_if(path: epath.Path, data: bytes, version: str) -> str | None:
  """Writes a file whole if nobody has changed it since.

  On a disk all who use these functions take turns; in a bucket the server decides, by generations
  (gs://) or tags (s3://).

  Args:
    path: of the file.
    data: differs from all that it held before, else those who read it cannot tell.
    version: of `read_version` or of an earlier call; '' if there must be no such file.
  Returns:
    The new version; None if it has another version, or if the answer to a request that succeeded
    was lost: who must know reads it.
  """
  if is_local(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(f'.{path.name}.lock'), 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      found = read_version(path)
      if (found[1] if found else '') != version:
        return None
      write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()
  swap = {'gs': _swap_gs, 's3': _swap_s3}.get(str(path).split('://')[0])
  if swap is None:
    raise ValueError(f'{path}: only local paths, gs:// and s3:// know conditional writes.')
  bucket, name = str(path).split('://')[1].split('/', 1)
  return retries.call(swap, bucket, name, data, version)


def _swap_gs(bucket: str, name: str, data: bytes, version: str) -> str | None:
  from google.api_core import exceptions

  blob = _gs_client().bucket(bucket).blob(name)
  try:
    blob.upload_from_string(data, if_generation_match=int(version or 0))
  except exceptions.PreconditionFailed:
    return None
  return str(blob.generation)


@functools.cache
def _gs_client() -> Any:
  from google.cloud import storage as google_storage  # Half a second: not for those on a disk.

  return google_storage.Client()


def _swap_s3(bucket: str, name: str, data: bytes, version: str) -> str | None:
  from botocore import exceptions

  condition = {'IfMatch': version} if version else {'IfNoneMatch': '*'}
  try:
    written = _s3_client().put_object(Bucket=bucket, Key=name, Body=data, **condition)
  except exceptions.ClientError as error:
    # 412; 409 while another is being written; 404 where a version is asked for.
    if error.response['ResponseMetadata']['HTTPStatusCode'] in (404, 409, 412) and (
      error.response['Error']['Code'] != 'NoSuchBucket'
    ):
      return None
    raise
  return written['ETag']


@functools.cache
def _s3_client() -> Any:
  import boto3

  return boto3.client('s3')


def write_table(path: epath.Path, table: pa.Table) -> None:
  """Writes a Parquet file whole."""
  buffer = pa.BufferOutputStream()
  pa.parquet.write_table(table, buffer, compression='zstd', write_page_checksum=True)
  write_bytes(path, buffer.getvalue().to_pybytes())


@contextlib.contextmanager
def opened(path: epath.Path) -> Generator[Any, None, None]:
  """A file to be read at any place; each read is repeated while the storage does not answer."""
  with retries.call(path.open, 'rb') as file:
    yield _Patient(file)


class _Patient:
  """A file whose reads are repeated, each from where it began."""

  def __init__(self, file: IO[bytes]):
    self._file = file

  def __getattr__(self, name: str) -> Any:
    return getattr(self._file, name)

  def read(self, size: int = -1) -> bytes:
    """Up to so many bytes, from where the file is."""
    place = self._file.tell()

    def read() -> bytes:
      self._file.seek(place)
      return self._file.read(size)

    return retries.call(read)


@contextlib.contextmanager
def _whole(path: epath.Path) -> Generator[Any, None, None]:
  """As `opened`, in a bucket by one request: what a table's columns need would be several."""
  if is_local(path):
    with opened(path) as file:
      yield file
    return
  filesystem, name = fsspec.core.url_to_fs(str(path))
  yield io.BytesIO(retries.call(filesystem.cat_file, name))


def read_table(
  path: epath.Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()
) -> pa.Table:
  """Reads a Parquet file.

  Args:
    path: of the file.
    columns: that are read; None for all.
    optional: that are read too, if they are there.
  Raises:
    ValueError: it is damaged or lacks a column.
  """
  with _whole(path) as file:
    try:
      if columns is not None and optional:
        names = pa.parquet.read_schema(file).names
        columns = [*columns, *(name for name in optional if name in names)]
        file.seek(0)
      return pa.parquet.read_table(
        file,
        columns=None if columns is None else list(columns),
        page_checksum_verification=True,  # Older files have none, and are read as they are.
      )
    except retries.StorageError:
      raise
    except (pa.ArrowException, OSError) as error:
      raise ValueError(
        f'{path} is damaged, or no such Parquet file: {user_errors.reason(error)}'
      ) from error


def read_json(path: epath.Path, *fields: str) -> dict:
  """Reads a JSON object; raises ValueError if it is damaged or lacks one of the fields."""
  try:
    found = json.loads(retries.call(path.read_text))
  except ValueError as error:  # Also of text that is no UTF-8.
    raise ValueError(f'{path} is damaged, it holds no JSON: {error}') from error
  missing = set(fields).difference(found) if isinstance(found, dict) else 'object'
  if missing:
    raise ValueError(f'{path} is damaged, or of something else: its JSON has no {missing}.')
  return found


def where_else(folder: epath.PathLike, name: str) -> str:
  """A sentence for a folder that lacks a file: its subfolder that has it, above all run/."""
  found = sorted(path.parent for path in epath.Path(folder).glob(f'*/{name}'))
  runs = [path for path in found if path.name == 'run']
  few = ' or '.join(map(str, (runs or found)[:3]))
  return f'Did you mean {few}?' if few else 'Check the path.'


def sha256(path: epath.Path) -> str:
  """Hex digest of a file of any size."""
  with opened(path) as file:
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()


def in_threads(function: Callable, items: Iterable) -> list[Any]:
  """function of each item, several at a time: a bucket answers late."""
  with concurrent.futures.ThreadPoolExecutor(IN_FLIGHT) as pool:
    return list(pool.map(function, items))


def move(source: epath.Path, target: epath.Path) -> None:
  """Renames a file; in a bucket the copy is made there, nothing passes through this machine."""
  if is_local(target):
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)
  else:
    filesystem, _ = fsspec.core.url_to_fs(str(target))
    filesystem.mv(str(source), str(target))


def remove_folder(path: epath.Path) -> None:
  """Deletes a folder with all that is in it, if it is there."""
  if path.exists():
    path.rmtree()


def fetch(path: epath.PathLike, local: epath.PathLike) -> None:
  """Copies a small file of a bucket to this disk, by one request."""
  filesystem, name = fsspec.core.url_to_fs(str(path))
  pathlib.Path(local).write_bytes(retries.call(filesystem.cat_file, name))


@contextlib.contextmanager
def fetched(path: epath.Path, *more: epath.Path) -> Generator[pathlib.Path, None, None]:
  """The file as a local one, for libraries that read only those.

  Args:
    path: of the file.
    *more: files that then lie beside it.
  """
  if is_local(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory() as folder:
    for file in dict.fromkeys((path, *more)):
      retries.call(file.copy, epath.Path(folder) / file.name, overwrite=True)
    yield pathlib.Path(folder) / path.name


@contextlib.contextmanager
def written(path: epath.Path) -> Generator[pathlib.Path, None, None]:
  """A local path for libraries that write only those; what they wrote appears whole at `path`."""
  if is_local(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(path).with_name(f'{path.name}.part')
    try:
      yield partial
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)
    return
  with tempfile.TemporaryDirectory() as folder:
    local = epath.Path(folder) / path.name
    yield pathlib.Path(local)
    retries.call(local.copy, path, overwrite=True)


def stamps(paths: Sequence[epath.PathLike]) -> list[list]:
  """Of each file what changes when it is written again: its size, and its time or a bucket's tag.

  In a bucket a folder is listed once, however many of its files are asked for.
  """
  listed: dict[str, dict[str, list]] = {}
  found = []
  for path in map(str, paths):
    if is_local(path):
      known = os.stat(path)
      found.append([known.st_size, known.st_mtime_ns])
      continue
    folder, _, name = path.rpartition('/')
    if folder not in listed:
      filesystem, inner = fsspec.core.url_to_fs(folder)
      infos = retries.call(filesystem.ls, inner, detail=True)
      listed[folder] = {info['name'].rpartition('/')[2]: _stamp(info) for info in infos}
    if name not in listed[folder]:
      raise FileNotFoundError(f'{path} is gone')
    found.append(listed[folder][name])
  return found


def _stamp(info: Mapping[str, Any]) -> list:
  return [info['size'], *(str(info[tag]) for tag in ('ETag', 'etag', 'created') if tag in info)]


def publish(folder: pathlib.Path, target: epath.Path, last: str) -> None:
  """Makes the files of a local folder those of the folder `target`.

  Args:
    folder: on the disk of `target`, or anywhere if that is in a bucket; it is gone afterwards.
    target: if it is there already, another worker has done the same work, and this is dropped.
    last: the file whose presence says that all are there.
  """
  if is_local(target):
    if not target.exists():
      os.replace(folder, target)
  else:
    for file in sorted(folder.iterdir(), key=lambda file: file.name == last):
      retries.call(epath.Path(file).copy, target / file.name, overwrite=True)
  shutil.rmtree(folder, ignore_errors=True)
