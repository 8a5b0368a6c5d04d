"""Videos of several shots: where curate found their cuts, and the frames on both sides of each."""

from typing import Any

from data_pipelines import progress
from data_pipelines.report import counts, examples

MAX_CUTS = 6  # That are shown of one video.
SIDES = ((-2, -1), (0, 1))  # Frames that are shown before a cut and from it on.


def of_videos(gallery: examples.Gallery, num_videos: int) -> list[dict]:
  """Some videos that have cuts, or more than one shot.

  Returns:
    Dicts of the sidecars' columns and what Strips adds, with start and end (seconds); shots: dicts
    of name, start, end, keep, reject, motion and picture; parts, of charts.timeline; at_cuts: dicts
    of time and pictures, of its two sides; and num_more, how many cuts are not shown.
  """
  table = gallery.table
  if 'cuts' not in table.columns:
    return []
  has_shots = ' OR len(spans) > 1' * ('spans' in table.columns)
  rows = counts.some_rows(table, f'(len(cuts) > 0{has_shots})', num_videos)
  details = counts.details(table, rows)
  return [
    _of_video(gallery, row, details[row])
    for row in progress.over(rows, len(rows), 'video', 'drawing')
  ]


def _of_video(gallery: examples.Gallery, row: int, details: dict) -> dict[str, Any]:
  shots: list[dict[str, Any]] = [
    dict(
      name=str(span['span_id']),
      start=span['span_start'],
      end=span['span_end'],
      keep=span['keep'],
      reject=span['reject'],
      motion=span.get('motion'),
    )
    for span in (details.get('spans') or [dict(details, span_id=0)])
    if span.get('span_end') is not None
  ]
  cuts = details['cuts'][:MAX_CUTS]
  groups = [[(shot['start'] + shot['end']) / 2] for shot in shots]
  groups += [[cut + place / details['fps'] for place in side] for cut in cuts for side in SIDES]
  drawn = gallery.strips(row, details, groups)
  of_shots, of_cuts = drawn['pictures'][: len(shots)], drawn['pictures'][len(shots) :]
  for i, shot in enumerate(shots):
    shot['picture'] = of_shots[i] if of_shots else ''
  return drawn | dict(
    start=details['first_time'],
    end=details['first_time'] + details['duration'],
    shots=shots,
    parts=[
      (shot['start'], shot['end'], 'p1' if shot['keep'] else 'p0', shot['name']) for shot in shots
    ],
    at_cuts=[dict(time=cut, pictures=of_cuts[2 * i : 2 * i + 2]) for i, cut in enumerate(cuts)],
    num_more=len(details['cuts']) - len(cuts),
  )
