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
      (1,234), `number` (three digits), and the functions of `charts`.
    **values: by the names that the template and the frame (`title`) use.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader([template.parent, FRAME]),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(count=lambda n: f'{n:,}', number=lambda x: f'{x:.3g}')
  names = ('interval', 'lines', 'key', 'bars', 'timeline')
  values |= {name: getattr(charts, name) for name in names}
  return environment.get_template(template.name).render(**values)
