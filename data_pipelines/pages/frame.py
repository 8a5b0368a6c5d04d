"""Fills a page's template, which extends frame.html."""

import pathlib
from typing import Any

import jinja2

from data_pipelines.pages import charts

FRAME = pathlib.Path(__file__).parent


def render(template: pathlib.Path, **values: Any) -> str:
  """The page as HTML; every value is escaped, and one that is missing is an error.

  Args:
    template: a file that begins with {% extends "frame.html" %}. It may use the filters `count`
      (1,234), `number` (three digits), `hours` (2.5 h, 40 s), `gigabytes` (1.5 GB, 7 MB), and the
      functions of `charts`.
    **values: by the names that the template and the frame (`title`) use.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader([template.parent, FRAME]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    count=lambda n: f'{n:,}', number=lambda x: f'{x:.3g}', hours=_hours, gigabytes=_gigabytes
  )
  names = ('interval', 'lines', 'key', 'bars', 'timeline')
  values |= {name: getattr(charts, name) for name in names}
  return environment.get_template(template.name).render(**values)


def _hours(hours: float) -> str:
  """For people: 52,000 h, 2.5 h, 12 min, 40 s."""
  if hours >= 1:
    return f'{hours:,.0f} h' if hours >= 100 else f'{hours:.3g} h'
  return f'{60 * hours:.3g} min' if hours >= 1 / 30 else f'{3600 * hours:.3g} s'


def _gigabytes(gigabytes: float) -> str:
  for unit, size in (('TB', 1e3), ('GB', 1.0), ('MB', 1e-3)):
    if gigabytes >= size:
      return f'{gigabytes / size:.3g} {unit}'
  return f'{1e6 * gigabytes:.3g} kB'
