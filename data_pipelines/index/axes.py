"""Axes: the scores by which an index divides the rows, where most of the rows have one."""

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.corpus import schema

DEFAULT = ('aesthetic', 'motion', 'network_subject')
MIN_KNOWN = 0.5  # Share of the rows of a kind of media; else balancing would be of what is unknown.


def known(rows: Mapping[str, np.ndarray], names: Sequence[str]) -> tuple[dict, list[str]]:
  """Leaves out, for each kind of media, the scores that most of its rows lack.

  Args:
    rows: `media_code` and `score_0`, `score_1`, ... of sidecars.Sidecars.select; NaN is unknown.
    names: of the scores, in their order.
  Returns:
    {name: scores (N,)} of those that are left, NaN for all rows of a kind of media that lacks them,
    and a sentence for each that is left out, of one kind of media or of all.
  """
  found, sentences = {}, []
  for i, name in enumerate(names):
    scores, partly = rows[f'score_{i}'].copy(), []
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
      found[name] = scores
    elif not partly:
      partly = [f'{name} is known of no row: nothing is balanced by it']
    sentences += partly
  return found, sentences
