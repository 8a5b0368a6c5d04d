"""Folders that are written whole or not at all, on a disk or in a bucket."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Generator

from etils import epath

from data_pipelines.corpus import retries, storage


def check(output: str | os.PathLike[str]) -> None:
  """Raises ValueError if `output` cannot be a new file or folder."""
  if epath.Path(output).exists():
    raise ValueError(f'output={str(output)!r} exists: remove it or choose another folder.')


def check_writable(folder: str | os.PathLike[str], flag: str = 'output') -> None:
  """Raises ValueError if a local folder, which need not exist, cannot be made or written to; or
  retries.StorageError if its disk fails.

  Args:
    folder: nothing is left in it, and it is not made.
    flag: that names it.
  """
  if not storage.is_local(folder):
    return
  place = pathlib.Path(folder).absolute()
  while not place.exists():
    place = place.parent
  try:
    retries.call(lambda: tempfile.TemporaryFile(dir=place).close())
  except retries.StorageError:
    raise  # Not the user's: the start is tried again.
  except OSError as error:
    reason = error.strerror or error if place.is_dir() else f'{place} is a file, not a folder'
    raise ValueError(
      f'{flag} {folder} is not writable: {reason}. Choose another --{flag}.'
    ) from error


@contextlib.contextmanager
def written_whole(output: str | os.PathLike[str]) -> Generator[pathlib.Path, None, None]:
  """A local folder that becomes `output` on success and vanishes on failure.

  In a bucket a reader may see a part of it while it is uploaded; a failure takes that back.
  """
  check(output)
  if not storage.is_local(output):
    with tempfile.TemporaryDirectory() as part:
      yield pathlib.Path(part)
      _upload(pathlib.Path(part), epath.Path(output))
    return
  output = pathlib.Path(output).absolute()
  output.parent.mkdir(parents=True, exist_ok=True)
  part = pathlib.Path(tempfile.mkdtemp(prefix=f'{output.name}.', suffix='.part', dir=output.parent))
  try:
    yield part
    part.chmod(0o755)  # mkdtemp makes a private folder.
    part.rename(output)
  except BaseException:
    shutil.rmtree(part)
    raise


def _upload(folder: pathlib.Path, target: epath.Path) -> None:
  """Copies all files of a folder into a bucket, or none."""
  files = [file for file in sorted(folder.rglob('*')) if file.is_file()]

  def copy(file: pathlib.Path) -> None:
    place = target / file.relative_to(folder).as_posix()
    retries.call(epath.Path(file).copy, place, overwrite=True)

  try:
    storage.in_threads(copy, files)
  except BaseException:
    storage.remove_folder(target)
    raise
