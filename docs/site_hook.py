"""What the site has beside docs/: pages from elsewhere in the repository, and the API by module.

A hook of MkDocs (mkdocs.yml). Links between files of the repository become links between pages; one
to a file that is no page becomes its name.
"""

import ast
import os
import pathlib
import re

import griffe
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
# File of the repository -> page of the site.
ELSEWHERE = {
  'README.md': 'index.md',
  'data_pipelines/README.md': 'corpora.md',
  'launch/README.md': 'launch.md',
  'CONTRIBUTING.md': 'contributing.md',
  'CHANGELOG.md': 'changelog.md',
  'SECURITY.md': 'security.md',
  'THIRD_PARTY.md': 'third_party.md',
}
SOURCES = {page: source for source, page in ELSEWHERE.items()}
PACKAGES = ('i2vgen_jax', 'data_pipelines')
LINK = re.compile(r'(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)')


class Commands(griffe.Extension):
  """Shows command lines in the docstrings of modules, which are indented by two, as code."""

  def on_module_instance(self, *, mod: griffe.Module, **_) -> None:
    """Called by griffe for each module."""
    if mod.docstring:
      mod.docstring.value = re.sub(r'^(?=  +\S)', '    ', mod.docstring.value, flags=re.MULTILINE)


def api() -> dict[str, str]:
  """Page -> text: the modules of a folder, whose docstrings mkdocstrings takes from the source."""
  pages = {}
  for package in PACKAGES:
    for folder in [ROOT / package, *sorted((ROOT / package).glob('*/'))]:
      modules = [path.stem for path in sorted(folder.glob('*.py')) if path.stem[:2] != '__']
      name = '.'.join(folder.relative_to(ROOT).parts)
      if modules and folder.name != 'torch_model':
        about = ast.get_docstring(ast.parse((folder / '__init__.py').read_text(encoding='utf-8')))
        blocks = [f'::: {name}.{module}' for module in modules]
        pages[f'api/{name}.md'] = '\n\n'.join([f'# {name}', about or '', *blocks]) + '\n'
  return pages


def on_config(config):
  """Lists the pages of the API."""
  [reference] = [section['Reference'] for section in config.nav if 'Reference' in section]
  reference.append({'API': list(api())})
  return config


def on_files(files, config):
  """Adds the pages."""
  for source, page in ELSEWHERE.items():
    text = (ROOT / source).read_text(encoding='utf-8')
    files.append(File.generated(config, page, content=text))
  for page, text in api().items():
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown, page, **_):
  """Turns links to files into links to pages."""
  own = page.file.src_uri
  folder = pathlib.PurePosixPath(SOURCES.get(own, f'docs/{own}')).parent

  def replaced(match):
    image, text, target, anchor = match[1], match[2], match[3], match[4] or ''
    path = os.path.normpath(folder / target)
    to = ELSEWHERE.get(path) or (path.removeprefix('docs/') if path.startswith('docs/') else '')
    if not to:
      return text if (ROOT / path).exists() else match[0]  # MkDocs reports what is not there.
    return f'{image}[{text}]({os.path.relpath(to, os.path.dirname(own) or ".")}{anchor})'

  return LINK.sub(replaced, markdown)
