"""The page in a browser: on a phone and a desk, light and dark, by the keyboard alone."""

import pathlib

import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.index import command as index
from data_pipelines.report import command as report
from tests import browser, readable
from tests.data_pipelines.report import pictured

pytestmark = readable.needs_a_browser


@pytest.fixture(scope='module')
def pages(tmp_path_factory):
  """Of a corpus with all parts, with an index and without: {name: URL}."""
  root = tmp_path_factory.mktemp('pages')
  for folder in ('train', 'val'):
    (root / 'in' / folder).mkdir(parents=True)
  for number in range(4):
    pictured.scene(number).save(root / f'in/train/{number}.jpg')
  pictured.scene(0, 160).save(root / 'in/train/copy_with_a_rather_long_name.jpg')
  pictured.scene(1, 160).save(root / 'in/val/held.jpg')
  for seed in range(4):
    shots = [pictured.tinted(seed, 0, 0.5 + seed), pictured.tinted(9 + seed, 2, 6.0)]
    video = demo_corpus.encode_video(np.concatenate(shots), 24)
    (root / f'in/train/film{seed}.mp4').write_bytes(video)
  (root / 'in/train/broken.mp4').write_bytes(b'nothing')
  directory = pictured.ingested(root / 'in', str(root / 'corpus'))
  words = 'Donaudampfschifffahrtsgesellschaftskapitaensmuetze' * 2
  told = dict(text_area=0.2, text=words, text_confidence=0.9, faces=2, face_area=0.1)
  pictured.rewrite(directory, people=3, people_area=0.7, **told)
  index.index({'mine': directory}, str(root / 'index'), quantiles=4, axes=['motion', 'num_bytes'])
  found = {}
  for name, folder in (('plain', ''), ('indexed', str(root / 'index'))):
    shown = report.report({'mine': directory}, str(root / f'{name}.html'), folder, 3)
    assert all(shown[part] for part in ('rules', 'videos', 'seen', 'groups', 'rejections'))
    found[name] = (root / f'{name}.html').as_uri()
  return found


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  with browser.chromium(tmp_path_factory.mktemp('chromium')) as chromium:
    yield chromium


@pytest.mark.parametrize(('width', 'scheme'), readable.SCREENS)
@pytest.mark.parametrize('name', ['plain', 'indexed'])
def test_it_fits_every_screen_and_can_be_read(pages, chromium, name, width, scheme):
  tab = chromium.open(pages[name])
  readable.check(tab, width, scheme)
  assert tab.js('document.images.length') > 20
  asked = [url for url in tab.requested if not url.startswith('data:')]
  assert asked == [pages[name]]  # It needs nothing beside it.


def test_a_cell_opens_its_examples_by_the_keyboard_alone(pages, chromium):
  tab = chromium.open(pages['indexed'])
  tab.show_as(1280, 900)
  is_seen = '!!document.querySelector(":target img")?.checkVisibility()'
  assert not tab.js('document.querySelector("details").open') and not tab.js(is_seen)
  readable.tab_to(tab, '.heat a')
  tab.press('Enter')
  tab.wait(is_seen)
  assert tab.js('document.querySelectorAll("details[open]").length') == 1
  readable.tab_to(tab, ':target a')  # Goes on from what was opened.
  tab.press('Enter')
  tab.wait('location.hash.startsWith("#map-")')
  readable.tab_to(tab, 'summary')
  tab.press('Enter')
  tab.wait('!document.querySelector("details").open')


def test_every_part_of_the_page_is_in_its_table_of_contents(pages, chromium):
  for url in pages.values():
    tab = chromium.open(url)
    linked = tab.js('[...document.querySelectorAll("nav a")].map(a => a.getAttribute("href"))')
    parts = tab.js('[...document.querySelectorAll("h2")].map(h => "#" + h.id)')
    assert linked == parts
    ids = tab.js('[...document.querySelectorAll("[id]")].map(e => e.id)')
    assert len(set(ids)) == len(ids)
    missing = tab.js(
      '[...document.querySelectorAll("a")].map(a => a.getAttribute("href"))'
      '.filter(h => !document.getElementById(h.slice(1)))'
    )
    assert missing == []


def test_pictures_of_the_page_are_files_of_their_own(pages):
  """Nothing but data URIs is shown."""
  text = pathlib.Path(pages['indexed'].removeprefix('file://')).read_text()
  assert text.count('<img src="data:image/jpeg;base64,') == text.count('<img ')
