"""Transitions that a network finds are written beside a corpus, and `curate` takes them."""

import pathlib

import numpy as np
import pyarrow.parquet as parquet
import pytest

from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.score import transitions
from i2vgen_jax import score
from tests import corpora

FPS = 12
VIDEOS = ([24, 30, 14], [40])


class Network:
  """Sees a hard cut at frame 6 of every video, and a transition in frames 16 to 19."""

  size = (27, 48)

  def __init__(self):
    self.lengths = []

  def __call__(self, frames_FHWC):
    assert frames_FHWC.shape[1:] == (27, 48, 3) and frames_FHWC.dtype == np.uint8
    self.lengths.append(len(frames_FHWC))
    probability_2F = np.full((2, len(frames_FHWC)), 0.1, np.float32)
    probability_2F[:, 5] = 0.9
    probability_2F[0, 17] = 0.9
    probability_2F[1, 16:20] = 0.9
    return probability_2F


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  root = tmp_path_factory.mktemp('transitions')
  directory = corpora.ingest_shots(root, VIDEOS, FPS)
  (root / 'weights').write_bytes(b'weights')
  network = Network()
  summary = transitions.find(directory, network, str(root / 'weights'))
  assert network.lengths == [68, 40]
  assert summary['num_examples'] == 2 and summary['num_transitions'] == 4
  return directory, root


def rows_of(directory, stage):
  files = sorted(pathlib.Path(directory, 'sidecar', stage).glob('*.parquet'))
  return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_transitions_are_told_in_seconds_of_the_file(found):
  rows = rows_of(found[0], 'shots')
  assert [row['key'] for row in rows] == ['0.mp4', '1.mp4']
  for row in rows:
    times = [(end['start'], end['end']) for end in row['transitions']]
    np.testing.assert_allclose(times, [(6 / FPS, 6 / FPS), (16 / FPS, 20 / FPS)], atol=1e-6)


def test_curate_takes_them_in_place_of_its_own(found):
  directory, root = found
  rules = decide.Rules(min_short_side=64, min_duration=0.5)
  curate.curate(directory, rules, num_processes=1)
  spans = [
    [(round(span['span_start'] * FPS), round(span['span_end'] * FPS)) for span in row['spans']]
    for row in rows_of(directory, 'curate')
  ]
  assert spans == [[(6, 15), (20, 67)], [(6, 15), (20, 39)]]
  network = Network()
  transitions.find(directory, network, str(root / 'weights'))
  assert network.lengths == []  # It is done already.


def test_weights_that_are_not_there_are_named(found):
  with pytest.raises(ValueError, match="No file 'nowhere.pth'"):
    score.find_shots(found[0], 'nowhere.pth')


def test_runs_of_probabilities_become_spans():
  def spans(one, many):
    probability_2F = np.zeros((2, 30))
    for row, places in zip(probability_2F, (one, many), strict=True):
      row[list(places)] = 0.8
    return transitions.spans(probability_2F)

  assert spans([], []) == []
  assert spans([9], [9]) == spans([], [9]) == [(10, 10)]  # The last frame before a cut,
  assert spans([9], [9, 10]) == [(10, 11)]
  assert spans([9, 10], range(5, 16)) == [(4, 17)]  # or the middle of a dissolve.
  assert spans([6, 12], range(6, 13)) == spans([], range(6, 13)) == [(6, 13)]
  assert spans([0], [0]) == [(1, 1)] and spans([29], range(20, 30)) == [(19, 30)]
  assert spans([4, 20], [4, 20]) == [(5, 5), (21, 21)]
