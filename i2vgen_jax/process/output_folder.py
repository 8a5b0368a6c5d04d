"""Folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Generator


def check(output: str | os.PathLike[str]) -> None:
  """Raises ValueError if `output` cannot be a new folder."""
  if '://' in str(output):
    raise ValueError(f'output={output!r} must be a local folder: write it there, then copy.')
  if pathlib.Path(output).exists():
    raise ValueError(f'output={str(output)!r} exists: remove it or choose another folder.')


@contextlib.contextmanager
def written_whole(output: str | os.PathLike[str]) -> Generator[pathlib.Path, None, None]:
  """A folder beside `output` that takes its name on success and vanishes on failure."""
  check(output)
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
