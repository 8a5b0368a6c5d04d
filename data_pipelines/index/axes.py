"""Axes: the scores by which an index divides the rows, where most of the rows have one."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.corpus import schema

DEFAULT = ('aesthetic', 'motion', 'network_subject')
MIN_KNOWN = 0.5  # Share of the rows of a kind of media; else balancing would be of what is unknown.


def leave_out_unknown(
  rows: dict[str, np.ndarray], names: Sequence[str]
) -> tuple[list[str], list[str]]:
  """Leaves out, for each kind of media, the scores that most of its rows lack.

  Args:
    rows: `media_code` and `score_0`, `score_1`, ... of sidecars.Sidecars.select; NaN is unknown.
      Scores that are left out become NaN, and those of no kind of media go; the others are
      numbered anew.
    names: of the scores, in their order.
  Returns:
    The names of those that are left, and a sentence for each that is left out, of one kind of media
    or of all.
  """
  left, sentences = [], []
  for i, name in enumerate(names):
    scores, partly = rows.pop(f'score_{i}'), []
    for code, media in enumerate(schema.MEDIA):
      is_media = rows['media_code'] == code
      share = np.isfinite(scores[is_media]).mean() if is_media.any() else 0.0
      if 0 < share < MIN_KNOWN:
        partly.append(
          f'{name} is known of {share:.1%} of the {media}s: they are not balanced by it '
          f'(--axes={name} does)'
        )
      if share < MIN_KNOWN:
        scores[is_media] = np.nan
    if np.isfinite(scores).any():
      rows[f'score_{len(left)}'] = scores
      left.append(name)
    elif not partly:
      partly = [f'{name} is known of no row: nothing is balanced by it']
    sentences += partly
  return left, sentences
