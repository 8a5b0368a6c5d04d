"""Who may import whom: the architecture, checked."""

import ast
import functools
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('configs', 'data_pipelines', 'i2vgen_jax', 'launch', 'benchmarks')
# Room -> the rooms that its files may import beside their own. A room is a folder, or a file with a
# row of its own; names are of the same package unless they begin with another's. Each row names
# rows above it only, so that arrows point one way.
ROWS = {
  'data_pipelines/children': '',
  'data_pipelines/demo_corpus': 'children',
  'data_pipelines/progress': '',
  'data_pipelines/user_errors': '',
  'data_pipelines/media': 'children user_errors',
  'data_pipelines/sources': 'media user_errors',
  'data_pipelines/engines': 'children media user_errors',
  'data_pipelines/corpus': 'engines media progress sources user_errors',
  'data_pipelines/ingest': 'corpus engines media sources',
  'data_pipelines/curate': 'corpus engines media sources user_errors',
  'data_pipelines/index': 'corpus curate',
  'data_pipelines/caption': 'corpus engines media',
  'data_pipelines/score': 'corpus engines media',
  'data_pipelines/stream': 'corpus index media progress user_errors',
  'data_pipelines/pages': '',
  'data_pipelines/report': 'corpus index media pages progress',
  'data_pipelines': (
    'caption corpus curate demo_corpus engines index ingest report stream user_errors'
  ),
  'i2vgen_jax/process': 'data_pipelines/corpus data_pipelines/progress data_pipelines/user_errors',
  'i2vgen_jax/status': (
    'process data_pipelines/corpus data_pipelines/progress data_pipelines/user_errors'
  ),
  'i2vgen_jax/models': '',
  'i2vgen_jax/diffusion': '',
  'i2vgen_jax/parallel': '',
  'i2vgen_jax/stored': 'parallel process data_pipelines/corpus data_pipelines/user_errors',
  'configs': 'data_pipelines/corpus data_pipelines/index i2vgen_jax/stored',
  'i2vgen_jax/pretrained': (
    'models parallel process stored data_pipelines/corpus data_pipelines/progress'
  ),
  'i2vgen_jax/conditions': 'models pretrained process data_pipelines/media data_pipelines/stream',
  'i2vgen_jax/session': (
    'conditions diffusion models parallel pretrained process stored '
    'data_pipelines/corpus data_pipelines/stream'
  ),
  'i2vgen_jax/load': 'parallel pretrained process session stored',
  'i2vgen_jax/demo': (
    'models pretrained process session stored data_pipelines/demo_corpus i2vgen_jax/load'
  ),
  'i2vgen_jax/sampling': (
    'conditions diffusion models parallel process session stored '
    'data_pipelines/corpus data_pipelines/media data_pipelines/progress data_pipelines/sources '
    'data_pipelines/stream data_pipelines/user_errors'
  ),
  'i2vgen_jax/exports/torch_model': '',
  'i2vgen_jax/exports': 'models pretrained process sampling session data_pipelines/corpus',
  'i2vgen_jax/training': (
    'conditions diffusion models parallel pretrained process sampling session '
    'stored data_pipelines/corpus data_pipelines/progress data_pipelines/stream'
  ),
  'i2vgen_jax/plan': (
    'models parallel pretrained process sampling session stored training data_pipelines/corpus '
    'data_pipelines/stream'
  ),
  'i2vgen_jax/evaluation': (
    'models pretrained sampling data_pipelines/corpus data_pipelines/curate '
    'data_pipelines/demo_corpus data_pipelines/pages'
  ),
  'i2vgen_jax': (
    'conditions evaluation exports i2vgen_jax/load models parallel plan pretrained process '
    'sampling session stored training configs data_pipelines data_pipelines/corpus '
    'data_pipelines/engines data_pipelines/index data_pipelines/media data_pipelines/progress '
    'data_pipelines/score data_pipelines/stream data_pipelines/user_errors'
  ),
  'i2vgen_jax/studio': (
    'i2vgen_jax conditions diffusion models parallel process sampling session '
    'data_pipelines/corpus data_pipelines/media data_pipelines/user_errors'
  ),
  'i2vgen_jax/preflight': (
    'i2vgen_jax models parallel plan process session stored training data_pipelines/corpus '
    'data_pipelines/stream'
  ),
  'launch': (
    'i2vgen_jax i2vgen_jax/parallel i2vgen_jax/plan i2vgen_jax/preflight i2vgen_jax/pretrained '
    'i2vgen_jax/process '
    'i2vgen_jax/session i2vgen_jax/stored data_pipelines/children data_pipelines/corpus '
    'data_pipelines/index data_pipelines/stream data_pipelines/user_errors'
  ),
  'benchmarks': (
    'configs data_pipelines/corpus data_pipelines/curate data_pipelines/demo_corpus '
    'data_pipelines/engines data_pipelines/index data_pipelines/ingest data_pipelines/media '
    'data_pipelines/stream i2vgen_jax i2vgen_jax/stored i2vgen_jax/conditions i2vgen_jax/demo '
    'i2vgen_jax/diffusion i2vgen_jax/evaluation i2vgen_jax/load '
    'i2vgen_jax/models i2vgen_jax/parallel i2vgen_jax/plan '
    'i2vgen_jax/pretrained i2vgen_jax/process i2vgen_jax/sampling i2vgen_jax/session '
    'i2vgen_jax/training'
  ),
  'benchmarks/curation_quality': 'data_pipelines/curate data_pipelines/score',
  'benchmarks/joins': (
    'data_pipelines/curate data_pipelines/demo_corpus data_pipelines/score i2vgen_jax/evaluation'
  ),
  'benchmarks/same_numbers': 'data_pipelines data_pipelines/stream i2vgen_jax i2vgen_jax/session',
  'benchmarks/faults': (
    'configs benchmarks/same_numbers data_pipelines data_pipelines/children '
    'data_pipelines/corpus data_pipelines/stream i2vgen_jax i2vgen_jax/process '
    'i2vgen_jax/session i2vgen_jax/stored i2vgen_jax/training launch'
  ),
}  # fmt: skip
# Room -> libraries that its files do without.
WITHOUT = {
  'i2vgen_jax/diffusion': {'flax'},
  'i2vgen_jax/pretrained': {'flax'},
  'data_pipelines': {'jax', 'flax'},
  'configs': {'jax'},
}
NOWHERE = {'torch', 'diffusers', 'tensorflow', 'tests', 'pickle'}  # Benchmarks may: they compare.
# For torch's own files, within the function that meets one.
TORCH = (
  'i2vgen_jax/pretrained/files.py',
  'i2vgen_jax/exports/vgen_file.py',
  'i2vgen_jax/evaluation/frechet.py',
)
TORCH_ROOM = 'i2vgen_jax/exports/torch_model'  # Is copied for torch, and never imported here.
# These import what a user names as 'module:function', or the command that calls them.
BY_NAME = (
  'benchmarks/same_numbers/batches.py',
  'data_pipelines/caption/captioners.py',
  'data_pipelines/curate/measure.py',
  'i2vgen_jax/conditions/__init__.py',
  'i2vgen_jax/evaluation/frechet.py',
  'i2vgen_jax/process/cli.py',
)
IMPORTERS = ('import_module', '__import__', 'run_module', 'run_path')
UNSEEN = '?'  # A name that is made at run time.


def relative(path):
  return path.relative_to(ROOT).as_posix()


def files(*packages):
  return [path for package in packages for path in sorted((ROOT / package).rglob('*.py'))]


def room(path):
  """The row of a file."""
  own = relative(path.with_suffix(''))
  return own if own in ROWS else relative(path.parent)


def allowed(row):
  """The rooms that a row names, in full."""
  package = row.partition('/')[0]
  names = ROWS[row].split()
  return [name if name.partition('/')[0] in PACKAGES else f'{package}/{name}' for name in names]


@functools.cache
def modules():
  """Dotted name -> file, of ours."""
  found = {}
  for path in files(*PACKAGES, 'tests'):
    name = relative(path.with_suffix('')).replace('/', '.')
    found[name.removesuffix('.__init__')] = path
  return found


def module_of(name):
  """The file of ours that a dotted name is, or is in; None for a library's."""
  while name and name not in modules():
    name = name.rpartition('.')[0]
  return modules().get(name)


@functools.cache
def imports(path):
  """Dotted names that a file imports, or starts as a process."""
  return set(names_in(ast.parse(path.read_text()), path.relative_to(ROOT).parts[:-1]))


def names_in(tree, package=()):
  """Dotted names that code imports by a statement, by name, by -m, or in code in a string."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      start = package[: len(package) - node.level + 1] if node.level else ()
      start = '.'.join([*start, *filter(None, [node.module])])
      yield from (f'{start}.{alias.name}' for alias in node.names)
      if any(alias.name in IMPORTERS for alias in node.names):
        yield UNSEEN  # Under another name, its calls are.
    elif isinstance(node, ast.Call):
      function = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
      if function in IMPORTERS:
        yield from name_of(node.args[:1])
      yield from after_dash_m(node.args)
    elif isinstance(node, ast.List | ast.Tuple):
      yield from after_dash_m(node.elts)
    elif isinstance(node, ast.Constant | ast.JoinedStr):
      yield from names_in_text(text_of(node), package)


def name_of(nodes):
  """The module that an argument names."""
  names = [node.value for node in nodes if isinstance(node, ast.Constant)]
  yield names[0] if names and '/' not in names[0] else UNSEEN


def after_dash_m(nodes):
  for flag, node in zip(nodes, nodes[1:], strict=False):
    if isinstance(flag, ast.Constant) and flag.value == '-m' and not isinstance(node, ast.Starred):
      yield from name_of([node])


def text_of(node):
  """A string, with 0 for what is filled in; '' for other constants."""
  parts = node.values if isinstance(node, ast.JoinedStr) else [node]
  values = [part.value if isinstance(part, ast.Constant) else '0' for part in parts]
  return ''.join(value if isinstance(value, str) else '' for value in values)


def names_in_text(text, package):
  if '.' in text and text in modules():  # A command in pieces.
    yield text
  if 'import' in text:
    try:
      tree = ast.parse(text)
    except (SyntaxError, ValueError):
      return
    yield from names_in(tree, package)


def ours(path):
  """The files of ours that a file imports, but itself."""
  found = {module_of(name) for name in imports(path)}
  return found - {path, None}


@pytest.mark.parametrize('path', files(*PACKAGES), ids=relative)
def test_imports_point_down(path):
  row = room(path)
  assert row in ROWS, f'{relative(path)}: write down what {row} may import: a row of ROWS.'
  for target in ours(path):
    arrow = row, room(target)
    assert arrow[1] in (row, *allowed(row)), (
      f'{relative(path)} imports {relative(target)}; {row} may import {allowed(row)}.'
    )


@pytest.mark.parametrize('path', files(*PACKAGES), ids=relative)
def test_libraries_stay_where_they_belong(path):
  tops = {name.partition('.')[0] for name in imports(path)}
  unwanted = set() if room(path).startswith('benchmarks') else set(NOWHERE)
  unwanted -= {'torch'} if relative(path) in TORCH or room(path) == TORCH_ROOM else set()
  for folder, libraries in WITHOUT.items():
    unwanted |= libraries if relative(path).startswith(f'{folder}/') else set()
  assert not tops & unwanted, f'{relative(path)} imports {tops & unwanted}.'
  assert UNSEEN not in tops or relative(path) in BY_NAME, (
    f'{relative(path)} imports a name made at run time, which this test cannot see: write it out.'
  )


def test_rows_name_rows_above_them_and_are_not_out_of_date():
  rows = list(ROWS)
  for index, row in enumerate(rows):
    assert set(allowed(row)) <= set(rows[:index]), f'{row} names rows that do not stand above it.'
  product = files(*PACKAGES)
  assert {room(path) for path in product} == set(ROWS)


def test_files_import_in_no_circle():
  graph = {relative(path): map(relative, ours(path)) for path in modules().values()}
  graphlib.TopologicalSorter(graph).prepare()  # Raises CycleError with the circle.


@pytest.mark.parametrize(
  ('code', 'name'),
  [
    ('import a.b', 'a.b'),
    ('def f():\n  from a import b', 'a.b'),
    ('from .b import c', 'top.room.b.c'),
    ('from ..b import c', 'top.b.c'),
    ('from . import b', 'top.room.b'),
    ('importlib.import_module("a.b")', 'a.b'),
    ('runpy.run_module("a.b", run_name="__main__")', 'a.b'),
    ('__import__("a.b")', 'a.b'),
    ('importlib.import_module(f"a.{b}")', UNSEEN),
    ('runpy.run_path("a/b.py")', UNSEEN),
    ('from runpy import run_module as start', UNSEEN),
    ('run([sys.executable, "-c", f"import os; from a import b; b.serve({number})"])', 'a.b'),
    ('run((sys.executable, "-m", "a.b"))', 'a.b'),
    ('run("python", "-m", "a")', 'a'),
    ('run([sys.executable, "-m", f"a.{b}"])', UNSEEN),
    ('command = ["i2vgen_jax.train", "--help"]', 'i2vgen_jax.train'),
  ],
)
def test_imports_are_seen_however_they_are_written(code, name):
  assert name in set(names_in(ast.parse(code), ('top', 'room')))


def test_the_stream_needs_neither_jax_nor_beam_nor_the_tools_of_curation():
  code = (
    'import sys\n'
    'for name in ("jax", "flax", "torch", "tensorflow", "apache_beam", "cv2", "scenedetect"):\n'
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
    'from i2vgen_jax.pretrained import tokenizers\n'
    'tokenizers.load_clip("i2vgen_jax/demo/tokenizer", "!")'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    env=dict(os.environ, USE_TORCH='0', USE_TF='0'),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
