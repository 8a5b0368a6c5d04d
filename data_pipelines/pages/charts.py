"""Small drawings as inline SVG, in the colours of the page's style: they follow light and dark.

A series is a list of points (x, y), or (x, y, low, high) with an interval. The first six have
colours and dashes of their own, the classes s0 to s5 of frame.html.
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
  return markupsafe.Markup(
    f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
    f'{"".join(drawn)}</svg>'
  )


def _axes(x_span: Span, y_span: Span, x_label: str, y_label: str, log: bool) -> list[str]:
  """Lines, ticks and labels."""
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
    place = f'x="{x_scale(tick):.1f}" y="{floor + 15}"'
    drawn.append(f'<text {place} text-anchor="middle">{tick:g}</text>')
  decades = [tick for tick in range(math.ceil(y_span[0]), math.floor(y_span[1]) + 1) if log]
  for tick in decades if len(decades) > 1 else _ticks(*y_span):
    y = y_scale(tick)
    drawn.append(f'{line} y1="{y:.1f}" y2="{y:.1f}"/>')
    text = f'{float(f"{10.0**tick:.2g}"):g}' if log else f'{tick:g}'
    drawn.append(f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
  return drawn


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


def _ticks(low: float, high: float) -> list[float]:
  """Three to seven round numbers within the span."""
  power = 10.0 ** math.floor(math.log10(high - low))
  step = next(power * part for part in (0.2, 0.25, 0.5, 1, 2) if high - low < 6.5 * power * part)
  numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
  return [round(number * step, 12) for number in numbers]
