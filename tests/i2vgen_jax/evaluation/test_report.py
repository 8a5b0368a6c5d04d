"""What an evaluation leaves: a report that JSON holds, and a page that can be read."""

import html.parser
import json
import re
import urllib.parse

import numpy as np
import pytest

from data_pipelines import demo_corpus
from i2vgen_jax import evaluate
from i2vgen_jax.evaluation import glossary, report, shapes, spectrum
from tests import browser, readable

RNG = np.random.default_rng(3)
CLIP = demo_corpus.render_video(RNG, demo_corpus.attributes_of(0), size=64)[0]
NOISY = np.clip(CLIP + RNG.normal(0, 12, CLIP.shape), 0, 255).astype(np.uint8)
VIDEOS = {'real': np.stack([CLIP, CLIP]), 'no <b> & "x" #1': np.stack([NOISY, NOISY])}
SETTINGS = dict(
  workdir='/somewhere/quickstart/run', step=1320, weights='ema', seed=7, num_examples=2,
  size=[8, 64, 64], fps=8.0, base=dict(sampler='ddim', num_steps=20, guidance_scale=3.0),
)  # fmt: skip
VOID = {'br', 'img', 'link', 'meta', 'line', 'circle', 'rect', 'polyline'}


class Page(html.parser.HTMLParser):
  """Checks that elements are closed in their order; collects ids, links and sources."""

  def __init__(self, text):
    super().__init__()
    self.open, self.ids, self.links, self.sources, self.text = [], [], [], [], ''
    self.feed(text)
    assert not self.open, self.open

  def handle_starttag(self, tag, attrs):
    found = dict(attrs)
    self.ids += [found['id']] if 'id' in found else []
    self.links += [found['href']] if tag == 'a' else []
    self.sources += [found['src']] if 'src' in found else []
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    pass

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """(folder, Page) of two clips with all that a page can show."""
  folder = tmp_path_factory.mktemp('page')
  report.write_videos(folder, VIDEOS, 8)
  captions = ['a < b', 'c' * 300]
  report.write_sheet(folder / 'contact_sheet.png', VIDEOS, captions, SETTINGS)
  measured = {
    'real': dict(psnr_db=None, motion=dict(mean=0.05, low=0.04, high=0.06, num=2)),
    'no <b> & "x" #1': dict(
      psnr_db=dict(mean=15.318, low=14.5, high=16.26, num=2),
      motion=dict(mean=0.4, low=0.4, high=0.4, num=2),
      own_measure=dict(mean=1.0, low=0.0, high=2.0, num=2),
    ),
  }
  spectra = spectrum.mean_spectra({name: list(videos) for name, videos in VIDEOS.items()})
  spectra['still'] = spectrum.mean_spectra({'still': [np.zeros_like(CLIP)]})['still']  # Power 0.
  losses = [dict(start=0, stop=500, mean=1.0, low=0.9, high=1.2, num=2)] * 2
  report.write_page(
    folder, 'Held-out clips', measured, VIDEOS, captions, SETTINGS,
    summary='all well', spectra=spectra, losses=losses,
  )  # fmt: skip
  return folder, Page((folder / 'index.html').read_text())


def test_the_page_is_whole_and_what_it_links_and_plays_is_there(page):
  folder, found = page
  assert len(found.sources) == 5 and len(set(found.ids)) == len(found.ids)
  for source in found.sources:
    assert (folder / urllib.parse.unquote(urllib.parse.urlsplit(source).path)).exists(), source
  assert all(link[1:] in found.ids for link in found.links if link.startswith('#'))
  assert [link for link in found.links if not link.startswith('#')] == ['contact_sheet.png']


@readable.needs_a_browser
def test_the_page_fits_every_screen_and_can_be_read(page, tmp_path):
  with browser.chromium(tmp_path) as chromium:
    tab = chromium.open((page[0] / 'index.html').as_uri())
    for width, scheme in readable.SCREENS:
      readable.check(tab, width, scheme)
    readable.tab_to(tab, '#toggle')


def test_the_page_says_of_which_run_and_how_it_was_sampled(page):
  text = page[1].text
  for word in ('all well', 'quickstart/run', '1,320', 'averaged', '20 steps of ddim, guidance 3'):
    assert word in text
  assert '8 frames of 64x64, 8 per second' in text and '"seed": 7' in text


def test_the_page_shows_captions_intervals_and_what_each_measure_is(page):
  folder, found = page
  text = found.text
  assert '00 a < b' in re.sub(r'\s+', ' ', text) and 'no <b> & "x" #1' in text
  assert '15.32 ± 0.88' in text and '0.05 ± 0.01' in text and '–' in text
  assert glossary.MEASURES['psnr_db'].text in text and 'own_measure' in text
  drawn = (folder / 'index.html').read_text().count('class="interval"')
  assert drawn == 4  # As many as there are means: of psnr_db, motion (two) and own_measure.
  assert 'nan' not in text


def test_every_measure_of_an_evaluation_is_in_the_glossary():
  made = [demo_corpus.render_video(RNG, demo_corpus.attributes_of(i), size=64) for i in range(2)]
  videos, captions = np.stack([made[0][0], made[1][0]]), [caption for _, caption, _ in made]
  assert shapes.is_demo(captions)
  found = evaluate.measure_sets({'sampled': videos}, videos, captions, 8)['sampled']
  measured = {name for name, value in found.items() if not isinstance(value, list)}
  assert measured and measured <= glossary.MEASURES.keys()


@pytest.mark.parametrize(
  ('found', 'text'),
  [
    (dict(mean=23.68, low=22.8, high=24.6), '23.7 ± 0.9'),
    (dict(mean=1234.5, low=1000.0, high=1500.0), '1234 ± 250'),
    (dict(mean=0.5, low=0.5, high=0.5), '0.5'),
    (dict(mean=1e-5, low=0.0, high=3e-5), '1e-05 ± 1.5e-05'),
    (2, '2'),
    (None, ''),
  ],
)
def test_a_mean_is_rounded_where_its_interval_is(found, text):
  assert glossary.text_of('psnr_db', found) == text


def test_shares_are_percentages():
  found = dict(mean=0.1875, low=0.0, high=0.38)
  assert glossary.text_of('keeps_color', found) == '19 ± 19 %'


def test_a_report_holds_what_json_can_and_its_table_the_means(tmp_path):
  found = {'real': {'psnr_db': dict(mean=30.0, low=29.0, high=31.0), 'curve': [1.0]}, 'b': {'x': 2}}
  report.write_json(tmp_path / 'r.json', found | {'nan': float('nan')})
  content = json.loads((tmp_path / 'r.json').read_text())
  assert content['nan'] is None and content['real']['curve'] == [1.0]
  lines = report.markdown_table(found).splitlines()
  assert lines == ['| | real | b |', '|---|---|---|', '| psnr_db | 30 ± 1 |  |', '| x |  | 2 |']


def test_vbench_finds_videos_by_caption_and_number(tmp_path):
  report.write_vbench(tmp_path, [CLIP, CLIP, CLIP], ['a/b', 'c', 'c'], 8)
  assert {path.name for path in tmp_path.iterdir()} == {'a b-0.mp4', 'c-0.mp4', 'c-1.mp4'}
