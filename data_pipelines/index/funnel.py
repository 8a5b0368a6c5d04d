"""How many rows each condition of an index leaves, and what to change where none is left."""

import logging
import re
from collections.abc import Mapping, Sequence

from data_pipelines.corpus import sidecars

KEPT = 'coalesce(keep, true)'


def with_reasons(table: sidecars.Sidecars, funnel: Sequence[dict]) -> list[dict]:
  """The funnel; the step of what `curate` keeps says how many each of its rules is against."""
  found = []
  for step in funnel:
    if step['condition'] == KEPT and 'reject' in table.columns:
      found_rules = table.rows(
        'SELECT rule, count(*) AS num FROM (SELECT unnest(reject) AS rule FROM sidecars) '
        'GROUP BY rule ORDER BY num DESC, rule'
      )
      step = step | dict(rejected_by={row['rule']: row['num'] for row in found_rules})
    found.append(step)
  return found


def text_of(funnel: Sequence[Mapping]) -> str:
  """A line of all steps."""
  return ', '.join(f'{step["condition"]}: {step["num_rows"]}{rules(step)}' for step in funnel)


def rules(step: Mapping) -> str:
  """How many rows each rule of `curate` is against, where the step says it."""
  found = step.get('rejected_by')
  return f' (rejected: {", ".join(f"{n} by {rule}" for rule, n in found.items())})' if found else ''


def warn_of_images(table: sidecars.Sidecars, where: Sequence[str]) -> None:
  """Logs the condition that drops the last image, such as one on a measure of videos alone."""
  _, before, *steps = table.funnel(["media = 'image'", *where])
  for step in steps:
    if before['num_rows'] and not step['num_rows']:
      logging.warning(
        'No image is left: %s drops the last %d. To keep them: --where="media = \'image\' or (%s)"',
        step['condition'], before['num_rows'], step['condition'],
      )  # fmt: skip
    before = step


def ways_out(table: sidecars.Sidecars, funnel: Sequence[Mapping]) -> str:
  """What to change so that rows are left: of each condition that drops some."""
  ways, before = [], funnel[0]['num_rows']
  for step in funnel[1:]:
    condition, lost, before = step['condition'], before - step['num_rows'], step['num_rows']
    if not lost:
      continue
    if condition == KEPT:
      ways.append(
        '`curate` with other rules keeps more (it says the flag of each, and measures nothing '
        'anew); --where="keep or true" takes all but what a denylist names'
      )
      continue
    for name in sorted(table.columns):
      if re.search(rf'\b{name}\b', condition):
        low, high = table.range(name)
        ways.append(f'{name} lies in {low} to {high}: change --where="{condition}"')
  return ''.join(f' {way}.' for way in ways)
