"""Small drawings as inline SVG, in the colours of the page's style: they follow light and dark.

A series is a list of points (x, y), or (x, y, low, high) with an interval. The first six have
colours and dashes of their own, the classes s0 to s5 of frame.html; p0 to p2 fill areas.
"""

import html
import math
from collections.abc import Callable, Mapping, Sequence

import markupsafe

# In units of the drawing, in which text is 11 high: a chart of 340 pixels can be read on a phone.
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 36
NUM_STYLES = 6

Series = Mapping[str, Sequence[tuple[float, ...]]]
Span = tuple[float, float]


def interval(mean: float, low: float, high: float, start: float, stop: float) -> markupsafe.Markup:
  """A mean as a dot on the line of its interval.

  Args:
    mean: of the dot.
    low: of the interval.
    high: likewise.
    start: at the left end of the drawing.
    stop: at the right end.
  """
  unit = 88 / ((stop - start) or 1)
  low_x, x, high_x = (6 + unit * (value - start) for value in (low, mean, high))
  return markupsafe.Markup(
    f'<svg class="interval" viewBox="0 0 100 12" width="100" height="12" aria-hidden="true">'
    '<line class="axis" x1="2" x2="98" y1="6" y2="6"/>'
    f'<line class="s1" stroke-width="3" x1="{low_x:.1f}" x2="{high_x:.1f}" y1="6" y2="6"/>'
    f'<circle class="d1" cx="{x:.1f}" cy="6" r="4"/></svg>'
  )


def key(names: Sequence[str]) -> markupsafe.Markup:
  """Which line is which series."""
  parts = [
    '<span><svg viewBox="0 0 28 8" width="28" height="8" aria-hidden="true">'
    f'<line class="{_style(i)}" stroke-width="2" x2="28" y1="4" y2="4"/></svg>{html.escape(name)}'
    '</span>'
    for i, name in enumerate(names)
  ]
  return markupsafe.Markup(f'<p class="key quiet">{"".join(parts)}</p>')


def lines(
  series: Series, label: str, x_label: str, y_label: str, log: bool = False
) -> markupsafe.Markup:
  """A chart of lines, with whiskers where points have intervals.

  Args:
    series: at least one, of at least one point, by name.
    label: says what is drawn, to who cannot see it.
    x_label: below the horizontal axis.
    y_label: of the vertical axis, above it.
    log: draws the logarithm of y, which is above 0.
  """
  height = math.log10 if log else float
  points = [point for found in series.values() for point in found]
  x_span = _span([point[0] for point in points])
  y_span = _span([height(y) for point in points for y in point[1:]])
  x_scale, y_scale = _scale(x_span, LEFT, WIDTH - RIGHT), _scale(y_span, HEIGHT - BOTTOM, TOP + 14)
  drawn = _axes(x_span, y_span, x_label, y_label, log)
  for i, found in enumerate(series.values()):
    places = [(x_scale(x), y_scale(height(y))) for x, y, *_ in found]
    path = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    drawn.append(f'<polyline class="line {_style(i)}" points="{path}"/>')
    for (x, _), point in zip(places, found, strict=True):
      if len(point) == 4:
        low, high = (y_scale(height(value)) for value in point[2:])
        drawn.append(
          f'<line class="{_style(i)} solid" stroke-width="1.8" x1="{x:.1f}" x2="{x:.1f}" '
          f'y1="{low:.1f}" y2="{high:.1f}"/>'
        )
  return _svg(label, drawn)


def bars(
  counts: Mapping[str, Sequence[int]], span: Span, label: str, x_label: str, y_label: str
) -> markupsafe.Markup:
  """A histogram of populations, each a part of the one before and drawn over it.

  Args:
    counts: numbers of bins of one width, by the class of their colour: p0, p1 or p2.
    span: where the first bin begins and the last one ends.
    label: says what is drawn, to who cannot see it.
    x_label: below the horizontal axis.
    y_label: of the vertical axis, above it.
  """
  top = max((max(numbers, default=0) for numbers in counts.values()), default=0) or 1
  y_scale = _scale((0, top), HEIGHT - BOTTOM, TOP + 14)
  drawn = _axes(span, (0, top), x_label, y_label, whole=True)
  for name, numbers in counts.items():
    width = (WIDTH - RIGHT - LEFT) / len(numbers)
    drawn.append(f'<g class="{name}">')
    for i, number in enumerate(numbers):
      if number:
        y = min(y_scale(number), HEIGHT - BOTTOM - 0.7)  # One of a million is seen too.
        drawn.append(
          f'<rect x="{LEFT + i * width:.1f}" y="{y:.1f}" width="{width - 0.6:.1f}" '
          f'height="{HEIGHT - BOTTOM - y:.1f}"/>'
        )
    drawn.append('</g>')
  return _svg(label, drawn)


def timeline(
  parts: Sequence[tuple[float, float, str, str]], marks: Sequence[float], span: Span, label: str
) -> markupsafe.Markup:
  """Parts of a video on the line of its time, and marks on it.

  Args:
    parts: start and stop, seconds; the class of the colour, p0, p1 or p2; and the name.
    marks: seconds.
    span: of the video, seconds.
    label: says what is drawn, to who cannot see it.
  """
  start, stop = span if span[1] > span[0] else (span[0], span[0] + 1.0)
  x_scale = _scale((start, stop), 8, WIDTH - 20)
  drawn = ['<line class="axis" x1="8" x2="340" y1="38" y2="38"/>']
  for low, high, name, text in parts:
    x, width = x_scale(low), max(x_scale(high) - x_scale(low), 1.0)
    drawn.append(f'<rect class="{name}" x="{x:.1f}" y="20" width="{width:.1f}" height="14"/>')
    if width > 7 * len(text):
      middle = f'x="{x + width / 2:.1f}" y="13" text-anchor="middle"'
      drawn.append(f'<text {middle}>{html.escape(text)}</text>')
  for mark in marks:
    x = f'{x_scale(mark):.1f}'
    drawn.append(f'<line class="s2 solid" stroke-width="2" x1="{x}" x2="{x}" y1="16" y2="38"/>')
  for tick in _ticks(start, stop):
    drawn.append(_tick(x_scale(tick), 52, f'{tick:g} s'))
  return _svg(label, drawn, 56)


def _svg(label: str, drawn: Sequence[str], height: int = HEIGHT) -> markupsafe.Markup:
  return markupsafe.Markup(
    f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
    f'{"".join(drawn)}</svg>'
  )


def _axes(
  x_span: Span, y_span: Span, x_label: str, y_label: str, log: bool = False, whole: bool = False
) -> list[str]:
  """Lines, ticks and labels; with `whole`, y counts things."""
  floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
  x_scale, y_scale = _scale(x_span, LEFT, right), _scale(y_span, floor, TOP + 14)
  line = f'<line class="axis" x1="{LEFT}" x2="{right}"'
  drawn = [
    f'<text x="2" y="{TOP + 2}">{html.escape(y_label)}</text>',
    f'{line} y1="{floor}" y2="{floor}"/>',
    f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
    f'{html.escape(x_label)}</text>',
  ]
  for tick in _ticks(*x_span):
    drawn.append(_tick(x_scale(tick), floor + 15, f'{tick:g}'))
  decades = [tick for tick in range(math.ceil(y_span[0]), math.floor(y_span[1]) + 1) if log]
  for tick in decades if len(decades) > 1 else _ticks(*y_span):
    if whole and tick % 1:
      continue
    y = y_scale(tick)
    drawn.append(f'{line} y1="{y:.1f}" y2="{y:.1f}"/>')
    text = f'{float(f"{10.0**tick:.2g}"):g}' if log else _short(tick) if whole else f'{tick:g}'
    drawn.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
  return drawn


def _tick(x: float, y: float, text: str) -> str:
  """A number below a horizontal axis, within the drawing."""
  half = 3.5 * len(text)
  x = min(max(x, half), WIDTH - half)
  return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{html.escape(text)}</text>'


def _scale(span: Span, start: float, stop: float) -> Callable[[float], float]:
  low, high = span
  return lambda value: start + (stop - start) * (value - low) / (high - low)


def _style(number: int) -> str:
  return f's{number % NUM_STYLES}'


def _span(values: Sequence[float]) -> Span:
  """Both ends of an axis; never of length 0."""
  low, high = min(values), max(values)
  margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
  return low - margin, high + margin


def _short(number: float) -> str:
  """A count for an axis: 250, 2.5k, 4M."""
  for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if number >= size:
      return f'{number / size:.4g}{unit}'
  return f'{number:g}'


def _ticks(low: float, high: float) -> list[float]:
  """Three to seven round numbers within the span."""
  power = 10.0 ** math.floor(math.log10(high - low))
  step = next(power * part for part in (0.2, 0.25, 0.5, 1, 2) if high - low < 6.5 * power * part)
  # Steps of 0.2 x 0.1 are a little more than 0.02, of which there are five in 0.1 all the same.
  numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
  return [round(number * step, 12) for number in numbers]
