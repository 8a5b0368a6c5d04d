"""What all pages share: colours that can be read, and drawings that show what they are given."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from data_pipelines.pages import charts, frame

STYLE = (frame.FRAME / 'frame.html').read_text()
TEXTS = ('ink', 'quiet', 'link')
GRAPHICS = ('fill', *(f's{i}' for i in range(6)), *(f'p{i}' for i in range(3)))
LARGEST_TINT = 0.40  # Of a cell of the corpus report: .06 + .34.


def colours():
  """{'light' | 'dark': {name: (r, g, b)}} of the style."""
  found = {}
  blocks = re.findall(r':root \{(.*?)\}', STYLE, re.DOTALL)
  for mode, block in zip(('light', 'dark'), blocks, strict=True):
    pairs = re.findall(r'--(\w+): #(\w{6})', block)
    found[mode] = {name: tuple(bytes.fromhex(value)) for name, value in pairs}
  return found


def contrast(one, other):
  """WCAG 2.2's contrast ratio of two sRGB colours."""

  def luminance(colour):
    parts = [value / 255 for value in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

  high, low = sorted((luminance(one), luminance(other)), reverse=True)
  return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_that_of_wcag():
  assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
  assert contrast((0x77, 0x77, 0x77), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize('mode', ['light', 'dark'])
def test_texts_and_graphics_have_the_contrasts_of_wcag_aa(mode):
  """1.4.3: 4.5 for text. 1.4.11: 3 for what a drawing shows."""
  found = colours()[mode]
  assert set(found) == set(colours()['light'])
  for text in TEXTS:
    for ground in ('page', 'soft'):
      assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
  for name in GRAPHICS:
    assert contrast(found[name], found['page']) >= 3, name
  assert contrast(found['fill'], found['track']) >= 3
  tinted = [
    LARGEST_TINT * fill + (1 - LARGEST_TINT) * page
    for fill, page in zip(found['fill'], found['page'], strict=True)
  ]
  assert contrast(found['ink'], tinted) >= 4.5


def test_a_page_names_no_colour_but_those_of_the_style():
  """What a template writes by itself would not follow light and dark."""
  folder = frame.FRAME.parents[1]
  pages = [folder / 'data_pipelines/report/page.html', folder / 'i2vgen_jax/evaluation/page.html']
  for page in pages:
    text = page.read_text()
    assert '{% extends "frame.html" %}' in text
    assert not re.findall(r'(?:#[0-9a-fA-F]{3,6}\b(?=[;"])|rgba?\()', text), page


def numbers(element, *names):
  return [float(element.get(name)) for name in names]


def test_an_interval_is_drawn_on_the_scale_of_its_row():
  drawing = ElementTree.fromstring(charts.interval(5.0, 4.0, 8.0, 0.0, 10.0))
  line, dot = drawing.findall('line')[1], drawing.find('circle')
  left, right = numbers(line, 'x1', 'x2')
  assert left < float(dot.get('cx')) < right
  # Of 88 units for 10.
  assert right - left == pytest.approx(0.4 * 88, abs=0.1)
  assert float(dot.get('cx')) - left == pytest.approx(0.1 * 88, abs=0.1)
  alone = ElementTree.fromstring(charts.interval(5.0, 5.0, 5.0, 5.0, 5.0))
  assert 0 <= float(alone.find('circle').get('cx')) <= 100


@pytest.mark.parametrize('log', [False, True])
def test_lines_lie_within_the_axes_and_rise_where_the_numbers_do(log):
  series = {'a <b>': [(0, 1.0), (1, 10.0), (2, 1000.0)], 'c': [(0, 2.0, 1.5, 2.5), (2, 3.0, 2, 4)]}
  drawing = ElementTree.fromstring(charts.lines(series, 'x & y', 'steps', 'loss', log))
  first, second = drawing.findall('polyline')
  places = [tuple(map(float, pair.split(','))) for pair in first.get('points').split()]
  assert all(0 < x < charts.WIDTH and 0 < y < charts.HEIGHT - charts.BOTTOM for x, y in places)
  assert places[0][1] > places[1][1] > places[2][1]  # SVG counts downwards.
  if log:  # One decade, then two.
    rises = places[0][1] - places[1][1], places[1][1] - places[2][1]
    assert rises[1] == pytest.approx(2 * rises[0], abs=0.2)
  assert len([line for line in drawing.findall('line') if 'solid' in line.get('class')]) == 2
  texts = [text.text for text in drawing.findall('text')]
  assert 'steps' in texts and 'loss' in texts and len(texts) >= 8
  assert ('1000' in texts) and ('100' in texts or not log)


@pytest.mark.parametrize('span', [(0, 1), (0.95, 1.02), (-3, 7), (0, 1000), (1e-6, 2e-6)])
def test_an_axis_has_some_round_ticks(span):
  ticks = charts._ticks(*span)
  assert 3 <= len(ticks) <= 8
  assert all(span[0] - 1e-9 <= tick <= span[1] + 1e-9 for tick in ticks)


def test_a_series_of_one_value_can_be_drawn():
  drawing = ElementTree.fromstring(charts.lines({'a': [(5, 0.0)]}, 'a', 'x', 'y'))
  assert 'nan' not in ElementTree.tostring(drawing).decode()


def test_a_key_names_all_series():
  text = charts.key(['real', 'no <b>'])
  assert 'real' in text and 'no &lt;b&gt;' in text and text.count('<line') == 2
