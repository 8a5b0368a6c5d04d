"""Pages, docstrings and comments name what exists: files, modules, links; tables and diagrams also
what a file defines."""

import ast
import io
import os
import pathlib
import re
import sys
import tokenize
import types

import jax
import numpy as np
import PIL.Image
import pytest

from i2vgen_jax import session as session_lib
from i2vgen_jax.conditions import base
from i2vgen_jax.process import exit_codes
from tests import commands, tiny

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('benchmarks', 'configs', 'data_pipelines', 'i2vgen_jax', 'launch')
FOLDERS = (*PACKAGES, 'docs', 'tests')
FILES = {
  path.relative_to(ROOT).as_posix()
  for folder in FOLDERS
  for path in (ROOT / folder).rglob('*')
  if '__pycache__' not in path.parts
}
CODE = {name for name in FILES if name.endswith('.py')}
PAGES = sorted(name for name in FILES if name.endswith('.md'))
PAGES += sorted(path.name for path in ROOT.glob('*.md'))
# Pages whose tables and diagrams say what is in which file.
MAPS = ('docs/architecture.md', 'docs/conditioning.md')
PATH = re.compile(rf'(?<![\w/.-])(?:{"|".join(FOLDERS)})/(?:[\w./-]*[\w/])?')
SCRIPT = re.compile(r'(?<![\w/.*-])\w[\w./-]*\.(?:py|sh)\b')
NONE = {'utils.py', 'modeling.py'}  # CONTRIBUTING.md: there is none; `export` writes the other.
MODULE = re.compile(rf'(?<![\w/.-])(?:{"|".join(PACKAGES)})(?:\.\w+)+')
LINK = re.compile(r'\]\((?!https?:)([^)#]+)')
ANCHOR = re.compile(r'\]\((?!https?:)([^)#]*)#([^)]+)\)')
DEFINED = re.compile(r'([\w/]+\.py): ([\w.]+)')  # In a diagram: file.py: Name.
NAME = re.compile(r'`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`')


def read(page):
  return (ROOT / page).read_text(encoding='utf-8')


def is_file(name):
  """Whether a file has this name, or this end of its path."""
  return name in FILES or any(file.endswith(f'/{name}') for file in FILES)


def is_module(name):
  """Whether a dotted name is a module, or a name in one."""
  parts = name.split('.')
  for length in range(len(parts), 0, -1):
    path = '/'.join(parts[:length])
    file = next((f for f in (f'{path}.py', f'{path}/__init__.py') if f in CODE), None)
    if file:
      return length == len(parts) or holds([file], parts[length])
  return False


def holds(files, name):
  """Whether the text or the name of one of the files has the word; a folder stands for its code."""
  for file in files:
    for code in CODE:
      if code.endswith(file) if file.endswith('.py') else code.startswith(file):
        if re.search(rf'\b{name}\b', read(code)) or name == pathlib.Path(code).stem:
          return True
  return False


@pytest.mark.parametrize('page', PAGES)
def test_files_modules_and_links_that_a_page_names_exist(page):
  text, folder = read(page), (ROOT / page).parent
  absent = [name for name in PATH.findall(text) if not (ROOT / name).exists()]
  absent += [name for name in SCRIPT.findall(text) if not is_file(name) and name not in NONE]
  absent += [name for name in MODULE.findall(text) if not is_module(name)]
  absent += [name for name in LINK.findall(text) if not (folder / name).exists()]
  assert not absent, f'{page} names {sorted(set(absent))}.'


def anchors(page):
  """Those of a page's headings, as GitHub and MkDocs make them."""
  text = re.sub(r'^```.*?^```', '', read(page), flags=re.MULTILINE | re.DOTALL)
  titles = re.findall(r'^#+ (.+)$', text, re.MULTILINE)
  titles = [re.sub(r'\]\([^)]*\)|[^\w\s-]', '', title).strip().lower() for title in titles]
  return {re.sub(r'\s', '-', title) for title in titles}


@pytest.mark.parametrize('page', PAGES)
def test_a_link_into_a_page_leads_to_a_heading(page):
  for file, anchor in ANCHOR.findall(read(page)):
    target = os.path.normpath((pathlib.PurePosixPath(page).parent / file) if file else page)
    assert anchor in anchors(target), f'{target} has no heading #{anchor}.'


def test_the_readme_is_short_and_shows_a_picture_and_three_commands():
  text = read('README.md')
  assert len(text.splitlines()) <= 120
  before = text[: text.index('```bash')]
  assert re.search(r'^!\[.+\]\(docs/\w+\.png\)$', before, re.MULTILINE)
  [block] = re.findall(r'```bash\n(.*?)```', text, re.DOTALL)
  assert len(block.replace('\\\n', '').splitlines()) == 3 and 'launch/quickstart.sh' in block
  assert 'bash launch/test.sh' in text


def test_the_page_of_commands_names_them_all_and_every_exit_code():
  text = read('docs/commands.md')
  absent = [found.name for found in commands.find_all() if f'`{found.name}`' not in text]
  assert [name for name in absent if name not in ('i2vgen_jax', 'launch local')] == []
  codes = {value for value in vars(exit_codes).values() if isinstance(value, int)}
  assert {int(code) for code in re.findall(r'^\| (\d+) \|', text, re.MULTILINE)} == codes


@pytest.mark.parametrize('package', PACKAGES)
def test_modules_and_paths_in_docstrings_and_comments_exist(package):
  absent = []
  for file in sorted(name for name in CODE if name.startswith(f'{package}/')):
    for token in tokenize.generate_tokens(io.StringIO(read(file)).readline):
      if token.type == tokenize.COMMENT or token.string.startswith('"""'):
        absent += [(file, name) for name in MODULE.findall(token.string) if not is_module(name)]
        paths = PATH.findall(token.string)
        absent += [(file, name) for name in paths if not (ROOT / name).exists()]
  assert not absent


@pytest.mark.parametrize('file', sorted(name for name in CODE if name.endswith('/__init__.py')))
def test_a_packages_docstring_names_its_modules(file):
  text = ast.get_docstring(ast.parse(read(file)))
  folder = (ROOT / file).parent
  places = (folder, folder.parent)
  absent = [
    name
    for name in NAME.findall(text)
    if '.' not in name
    and not any((place / name).is_dir() or (place / f'{name}.py').exists() for place in places)
  ]
  assert text and not absent


def test_the_site_has_every_page_of_docs():
  nav = re.findall(r'^ +- .+: ([\w.]+\.md)$', read('mkdocs.yml'), re.MULTILINE)
  elsewhere = dict(re.findall(r"'(\S+\.md)': '(\w+\.md)'", read('docs/site_hook.py')))
  assert elsewhere.keys() >= {'README.md', 'launch/README.md'} and set(elsewhere) <= set(PAGES)
  own = [page.removeprefix('docs/') for page in PAGES if page.startswith('docs/')]
  assert sorted(nav) == sorted([*own, *elsewhere.values()])


@pytest.mark.parametrize('page', MAPS)
def test_names_beside_a_file_are_in_it(page):
  """Of a table's row, every name in code is in one of the row's files; of a diagram's line too."""
  wrong = [(file, name) for file, name in DEFINED.findall(read(page)) if not defines(file, name)]
  rows = [line for line in read(page).splitlines() if line.startswith('|')]
  checked = 0
  for row in rows:
    files = [name for name in PATH.findall(row) if not name.endswith('.md')]
    for name in NAME.findall(row) if files else ():
      checked += 1
      if not holds(files, name.rpartition('.')[2]):
        wrong.append((files, name))
  assert checked > 5 and not wrong, wrong


def defines(file, name):
  return is_file(file) and holds([file], name.rpartition('.')[2])


def test_the_conditioner_on_its_page_becomes_a_part_of_the_u_net(monkeypatch):
  [code] = re.findall(r'```python\n(import flax.*?)```', read('docs/conditioning.md'), re.DOTALL)
  module = types.ModuleType('brightness')
  exec(code, module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  config = tiny.get_config('no corpus')
  config.unet.conditioners = (*config.unet.conditioners, dict(kind='brightness:Brightness'))
  session = session_lib.build(config)
  assert session.dropout_rates()['mean'] == 0.1
  assert {array.name for array in session.kept()} >= {'mean'}
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(session.unet.init, key, *session.smallest_unet_inputs())['params']
  width = 4 * config.unet.block_channels[0]
  assert params['brightness']['linear']['kernel'].shape == (1, width)
  images = [PIL.Image.new('RGB', (8, 8))] * 2
  request = base.Request(images, ['a', 'b'], 32, 32, 8.0, {'mean': '0.25'})
  signal = session.signals['mean']
  np.testing.assert_allclose(signal.encode({}, signal.of_request(request)), [0.25, 0.25])
  batch = {'video': np.full((2, 4, 8, 8, 3), 51, np.uint8)}
  np.testing.assert_allclose(signal.encode({}, signal.of_batch(batch)), [0.2, 0.2])
