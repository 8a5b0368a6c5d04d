"""A commit and the work tree, as folders in which commands are run."""

import contextlib
import hashlib
import importlib.metadata
import io
import pathlib
import shutil
import subprocess
import tarfile

PACKAGES = (
  'array-record', 'av', 'flax', 'grain', 'jax', 'jaxlib', 'ml-collections', 'ml-dtypes', 'numpy',
  'optax', 'orbax-checkpoint', 'pillow', 'pyarrow', 'safetensors', 'simplejpeg', 'tensorboardX',
  'tensorflow-datasets', 'tokenizers', 'torch', 'transformers',
)  # fmt: skip
ROOT = pathlib.Path(__file__).resolve().parents[2]


def commit_of(revision: str) -> str:
  """The commit that a revision of this repository names; raises ValueError if it names none."""
  found = _git('rev-parse', '--verify', '--quiet', f'{revision}^{{commit}}', check=False)
  if not found:
    raise ValueError(f'{revision!r} names no commit of {ROOT}: see `git log --oneline`.')
  return found.decode().strip()


def check_out(commit: str, folder: pathlib.Path) -> None:
  """Writes the files of a commit."""
  folder.mkdir(parents=True)
  with tarfile.open(fileobj=io.BytesIO(_git('archive', '--format=tar', commit))) as tar:
    safely = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}  # From 3.11.4 on.
    tar.extractall(folder, **safely)


def copy_work_tree(folder: pathlib.Path) -> None:
  """Writes the files of the work tree as they are now, new ones too: edits do not reach a run."""
  listed = _git('ls-files', '-z', '--cached', '--others', '--exclude-standard').decode()
  for name in listed.split('\0'):
    if name and (ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name)


def environment() -> str:
  """Digest of the versions of the packages that make numbers, media and files."""
  versions = []
  for name in PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions.append(f'{name}=={importlib.metadata.version(name)}')
  return hashlib.sha256('\n'.join(versions).encode()).hexdigest()[:8]


def _git(*arguments, check=True):
  done = subprocess.run(['git', *arguments], cwd=ROOT, check=check, capture_output=True)
  return done.stdout
