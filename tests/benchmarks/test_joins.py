"""The films of benchmarks/joins are joined where they say, and its counts are right."""

import numpy as np
import pytest

from benchmarks.joins import __main__ as joins
from benchmarks.joins import films

SOURCES = [  # Shots that stand still, each of its own colour.
  lambda _, count, i=i: np.full((count, films.HEIGHT, films.WIDTH, 3), 60 + 50 * i, np.uint8)
  for i in range(3)
]


@pytest.mark.parametrize('kind', films.JOINS)
def test_a_join_is_where_the_truth_says(kind):
  film = films.make(kind, SOURCES, np.random.default_rng(1), num_shots=4)
  assert len(film.truth) == 3
  level_F, shots = film.frames_FHWC[..., 0].mean(axis=(1, 2)), {60, 110, 160}
  outside = [0, *(edge for join in film.truth for edge in join), len(level_F)]
  for start, stop in zip(outside[::2], outside[1::2], strict=True):
    assert len(set(level_F[start:stop])) == 1 and level_F[start] in shots
  assert all(level_F[start - 1] != level_F[stop] for start, stop in film.truth)
  for start, stop in film.truth:
    assert (kind == 'cut') == (start == stop)
    assert shots.isdisjoint(level_F[start:stop])


@pytest.mark.parametrize('kind', films.NO_JOINS)
def test_what_only_looks_like_a_join_has_no_truth(kind):
  film = films.make(kind, SOURCES, np.random.default_rng(1), num_shots=4)
  assert film.truth == [] and film.num_events >= 1 and len(film.frames_FHWC) == 12 * films.FPS
  changed_F = (film.frames_FHWC != film.frames_FHWC[0]).any(axis=(1, 2, 3))
  assert changed_F.any() == (kind == 'flash')  # A camera that turns sees the same colour.


def test_counts_are_right():
  film = films.Film('dissolve', np.zeros((100, 2, 2, 3), np.uint8), [(20, 30), (60, 70)])
  found = joins.score(film, [(22, 33), (45, 45)])
  assert found == dict(
    joins=2, found=1, detections=2, right=1, events=0, gradual=20, mixed=12, shots=80, lost=3
  )  # fmt: skip
  # Agresti and Coull 1998: 8 of 10 within [0.490, 0.943].
  np.testing.assert_allclose(joins.wilson(8, 10), (0.490, 0.943), atol=1e-3)
