"""The site builds without a warning, and no link on it is dead."""

import html.parser
import os
import pathlib
import subprocess
import sys
import urllib.parse

import pytest

ROOT = pathlib.Path(__file__).parent.parent


class Page(html.parser.HTMLParser):
  """What a page links to, loads, and has as ids."""

  def __init__(self, text):
    super().__init__()
    self.links, self.ids = [], {''}
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      if name in ('href', 'src') and tag != 'link':  # Of those, `canonical` and feeds.
        self.links.append(value or '')
      elif name in ('id', 'name'):
        self.ids.add(value)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """Folder of the site. `--strict` makes an error of a warning, though not beside `--quiet`."""
  folder = tmp_path_factory.mktemp('site')
  build = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', str(folder)]
  environment = os.environ | {'NO_MKDOCS_2_WARNING': '1'}  # About another version of MkDocs.
  done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
  said = done.stdout + done.stderr
  assert done.returncode == 0 and 'WARNING' not in said, said
  return folder


def test_no_link_of_the_site_is_dead(site):
  pages = {path: Page(path.read_text(encoding='utf-8')) for path in site.rglob('*.html')}
  dead, checked = [], 0
  for path, page in pages.items():
    for link in page.links if path.name != '404.html' else ():  # Its links begin at the host.
      url = urllib.parse.urlsplit(link)
      if url.scheme or url.netloc:
        continue
      target = path.parent.joinpath(urllib.parse.unquote(url.path)) if url.path else path
      target = pathlib.Path(os.path.normpath(target / 'index.html' if target.is_dir() else target))
      checked += 1
      ids = pages[target].ids if target in pages else {url.fragment}
      if not target.exists() or urllib.parse.unquote(url.fragment) not in ids:
        dead.append((path.relative_to(site).as_posix(), link))
  assert checked > 1000 and not dead


def test_the_site_has_the_readme_first_and_a_page_for_each_folder_of_code(site):
  assert 'quickstart.sh' in (site / 'index.html').read_text(encoding='utf-8')
  for package in ('i2vgen_jax', 'data_pipelines'):
    for folder in (ROOT / package).glob('*/__init__.py'):
      page = site / 'api' / f'{package}.{folder.parent.name}' / 'index.html'
      modules = [f for f in folder.parent.glob('*.py') if not f.name.startswith('__')]
      assert not modules or f'id="{package}.{folder.parent.name}.' in page.read_text()
