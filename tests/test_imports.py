"""Who may import whom: the architecture, checked."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Folder -> what its files must not import. Leaves do not know what is built on them.
FORBIDDEN = {
  'i2vgen_jax/diffusion': {
    'i2vgen_jax': {'diffusion'}, 'data_pipelines': set(), 'configs': set(), 'flax': set(),
  },
  'i2vgen_jax/models': {'i2vgen_jax': {'models'}, 'data_pipelines': set(), 'configs': set()},
  'i2vgen_jax/parallel': {'i2vgen_jax': {'parallel'}, 'data_pipelines': set(), 'configs': set()},
  'i2vgen_jax/pretrained': {
    'i2vgen_jax': {'pretrained'}, 'data_pipelines': set(), 'configs': set(), 'flax': set(),
  },
  'data_pipelines': {'i2vgen_jax': set(), 'configs': set(), 'jax': set(), 'flax': set()},
  'data_pipelines/score': {'i2vgen_jax': {'models', 'pretrained'}, 'configs': set()},
  'configs': {'i2vgen_jax': set(), 'data_pipelines': set(), 'jax': set()},
}  # fmt: skip
NOWHERE = {'torch', 'diffusers', 'tensorflow', 'tests', 'pickle'}
# For torch's own files, within the function that meets one.
TORCH = (
  'i2vgen_jax/pretrained/files.py',
  'i2vgen_jax/export.py',
  'i2vgen_jax/evaluation/frechet.py',
)


def imports(path):
  """Dotted names that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def files():
  for folder in ('i2vgen_jax', 'data_pipelines', 'configs', 'launch'):
    yield from sorted((ROOT / folder).rglob('*.py'))


@pytest.mark.parametrize('path', list(files()), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
  relative = str(path.relative_to(ROOT))
  for name in imports(path):
    top, _, rest = name.partition('.')
    assert top not in NOWHERE or (top == 'torch' and relative in TORCH), (
      f'{relative} imports {name}'
    )
    folder = max((f for f in FORBIDDEN if relative.startswith(f + '/')), key=len, default='')
    if folder and top in FORBIDDEN[folder]:
      allowed = FORBIDDEN[folder][top]
      assert rest.split('.')[0] in allowed, f'{relative} must not import {name}'


def test_the_stream_needs_neither_beam_nor_the_tools_of_curation():
  code = (
    'import sys\n'
    'for name in ("torch", "tensorflow", "apache_beam", "cv2", "scenedetect"):\n'
    '  sys.modules[name] = None\n'
    'import data_pipelines.stream.stream, data_pipelines.__main__'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_training_needs_neither_torch_nor_tensorflow():
  """With both out of reach; transformers, which takes torch if it is there, is told to do
  without."""
  code = (
    'import sys\n'
    'for name in ("torch", "tensorflow", "diffusers"): sys.modules[name] = None\n'
    'import i2vgen_jax.train, i2vgen_jax.sample, i2vgen_jax.export, i2vgen_jax.evaluate\n'
    'import i2vgen_jax.load\n'
    'from i2vgen_jax import components; components.load_tokenizer("i2vgen_jax/demo/tokenizer", "!")'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    env=dict(os.environ, USE_TORCH='0', USE_TF='0'),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
