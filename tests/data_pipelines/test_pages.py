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
  assert all('{% extends "frame.html" %}' in page.read_text() for page in pages)
  parts = [part for page in pages for part in page.parent.glob('*.html')]
  assert len(parts) > len(pages)
  for page in parts:
    text = page.read_text()
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


def places_of(rects):
  return [tuple(numbers(rect, 'x', 'y', 'width', 'height')) for rect in rects]


def test_bars_stand_on_the_axis_and_end_at_the_ticks_of_their_numbers():
  counts = dict(p0=[0, 2500, 10_000, 1], p1=[0, 0, 4000, 0])
  drawing = ElementTree.fromstring(charts.bars(counts, (2.0, 6.0), 'a & b', 'secs', 'examples'))
  back, front = (places_of(group.findall('rect')) for group in drawing.findall('g'))
  assert [group.get('class') for group in drawing.findall('g')] == ['p0', 'p1']
  floor = charts.HEIGHT - charts.BOTTOM
  assert all(y + height == pytest.approx(floor) for _, y, _, height in back + front)
  assert [len(back), len(front)] == [3, 1] and min(height for *_, height in back) >= 0.7
  ticks = {text.text: numbers(text, 'x', 'y') for text in drawing.findall('text')}
  assert {'secs', 'examples', '0', '4k', '10k'} <= ticks.keys()
  of_4000, of_10_000 = (ticks[name][1] - 4 for name in ('4k', '10k'))  # Texts hang 4 lower.
  assert front[0][1] == pytest.approx(of_4000, abs=0.2)
  assert back[1][1] == pytest.approx(of_10_000, abs=0.2)
  assert back[0][0] == pytest.approx(ticks['3'][0], abs=0.2)  # The second bin begins at 3.


@pytest.mark.parametrize('stop', [0.1, 1000.0, 1e6])
def test_the_last_number_of_an_axis_lies_within_the_drawing(stop):
  drawing = ElementTree.fromstring(charts.bars(dict(p0=[1]), (0.0, stop), 'a', 'x', 'y'))
  *_, last = [t for t in drawing.findall('text') if t.get('text-anchor') == 'middle'][1:]
  assert float(last.text) == stop
  assert float(last.get('x')) + 3 * len(last.text) <= charts.WIDTH  # A digit is 6 to 7 wide.


@pytest.mark.parametrize('top', [1, 2, 3, 7, 1234, 4_000_000])
def test_an_axis_of_counts_has_whole_numbers_only(top):
  drawing = ElementTree.fromstring(charts.bars(dict(p0=[top]), (0, 1), 'a', 'x', 'y'))
  line = drawing.findall('line')[1:]  # The first is the other axis.
  texts = [text.text for text in drawing.findall('text') if text.get('text-anchor') == 'end']
  assert len(texts) == len(line) >= 2 and len(set(texts)) == len(texts)
  scale = {'k': 1e3, 'M': 1e6}
  values = [float(text.rstrip('kM')) * scale.get(text[-1], 1) for text in texts]
  assert all(value % 1 == 0 and value <= top for value in values)


def test_an_axis_of_nothing_can_be_drawn():
  drawing = ElementTree.fromstring(charts.bars(dict(p0=[0, 0]), (0, 1), 'a', 'x', 'y'))
  assert not drawing.findall('g/rect')


def test_a_timeline_has_parts_and_marks_at_their_times():
  parts = [(0.0, 2.0, 'p1', '0'), (2.5, 10.0, 'p0', 'long "name"')]
  drawing = ElementTree.fromstring(charts.timeline(parts, [2.5], (0.0, 10.0), 'a <b>'))
  (first, second), mark = places_of(drawing.findall('rect')), drawing.findall('line')[1]
  assert second[0] == pytest.approx(float(mark.get('x1'))) and first[0] < second[0]
  assert second[2] / first[2] == pytest.approx(7.5 / 2.0, abs=0.05)
  texts = {text.text: float(text.get('x')) for text in drawing.findall('text')}
  assert texts['0 s'] == pytest.approx(first[0], abs=3) and 'long "name"' in texts
  assert texts['10 s'] == pytest.approx(second[0] + second[2], abs=2)


def test_a_timeline_of_no_length_can_be_drawn():
  charts.timeline([(3.0, 3.0, 'p1', '0')], [], (3.0, 3.0), 'a')


@pytest.mark.parametrize(
  ('template', 'text'),
  [
    ('{{ 0.01 | hours }}', '36 s'), ('{{ 0.2 | hours }}', '12 min'),
    ('{{ 2.54 | hours }}', '2.54 h'), ('{{ 52000 | hours }}', '52,000 h'),
    ('{{ 0 | hours }}', '0 s'),
    ('{{ 0.0068 | gigabytes }}', '6.8 MB'), ('{{ 1500 | gigabytes }}', '1.5 TB'),
    ('{{ 2.25 | gigabytes }}', '2.25 GB'), ('{{ 1e-5 | gigabytes }}', '10 kB'),
  ],
)  # fmt: skip
def test_lengths_and_sizes_are_written_for_people(template, text, tmp_path):
  (tmp_path / 'page.html').write_text(template)
  assert frame.render(tmp_path / 'page.html') == text


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
