"""A budget of bad examples is that of the whole corpus: chance does not use it up."""

import math

import numpy as np
import pytest

from data_pipelines.stream import health


def stopped_at(fraction, num_draws, seed, budget=0.01):
  """Draws until the evidence suffices; 0 if it never does."""
  is_bad = np.random.default_rng(seed).random(num_draws) < fraction
  for num_bad, draw in enumerate(np.flatnonzero(is_bad), start=1):
    if health.log_evidence(num_bad, int(draw) + 1, budget) > -math.log(health.ERROR):
      return int(draw) + 1
  return 0


def test_a_share_within_the_budget_never_ends_a_run_and_thrice_the_budget_soon_does():
  """Of 8 million draws each, 200 runs of the first two shares went on; the median of 300 runs at
  3 % ended after 1,815 draws, the last after 3,395."""
  for fraction in (0.0086, 0.01):
    assert [stopped_at(fraction, 200_000, seed) for seed in range(10)] == [0] * 10
  stops = [stopped_at(0.03, 20_000, seed) for seed in range(20)]
  assert 300 < min(stops) and max(stops) < 6000


def test_the_evidence_is_the_average_likelihood_ratio():
  shares = np.linspace(0.01, 1, 200_001)[1:-1]
  for num_bad, num_seen in ((4, 60), (3, 3), (30, 1000)):
    likelihood = shares**num_bad * (1 - shares) ** (num_seen - num_bad)
    ratio = np.mean(likelihood) / (0.01**num_bad * 0.99 ** (num_seen - num_bad))
    assert health.log_evidence(num_bad, num_seen, 0.01) == pytest.approx(np.log(ratio), abs=1e-3)


def count(counter, step, num_good, bad=()):
  counter.begin(step)
  for _ in range(num_good):
    counter.count()
  for key in bad:
    counter.count(key, 'damaged')


def test_only_steps_that_are_taken_count_and_a_restart_goes_on_from_there():
  first = health.Health(10**6, 0.01)
  for step in range(10):
    count(first, step, 7, [f'{step}'] if step % 2 else [])
  for step in range(4):
    first.take(step)
  assert first.counted == (4 * 7 + 2, 2)  # Six steps are only decoded ahead.
  second = health.Health(10**6, 0.01)
  second.before = (900, 60)
  count(second, 4, 8)
  second.take(4)
  count(second, 5, 7, ['a'])
  second.take(5)  # One example, however often it comes, is not too many.
  with pytest.raises(health.DataError, match=r'62 of 924 examples drawn .*=0.01: a \(damaged\), b'):
    count(second, 6, 7, ['b'])


def test_more_different_examples_than_the_corpus_may_have_end_the_run_at_once():
  counter = health.Health(100, 0.02)
  for step, key in enumerate('abab'):
    count(counter, step, 400, [key])
    counter.take(step)
  with pytest.raises(health.DataError, match='3 of 100 examples cannot be decoded'):
    count(counter, 4, 400, ['c'])


def test_a_batch_of_nothing_but_bad_examples_ends_before_it_is_full():
  counter = health.Health(10**6, 0.01)
  with pytest.raises(health.DataError, match='5 of 5 examples drawn'):
    count(counter, 0, 0, 'abcdefgh')


def test_steps_decoded_at_the_same_time_are_too_many_together():
  counter = health.Health(10**6, 0.01)
  for step, key in enumerate('abcdef'):
    count(counter, step, 0, [key])
  with pytest.raises(health.DataError, match='5 of 5 examples drawn'):
    for step in range(6):
      counter.take(step)


@pytest.mark.parametrize('budget', [0.0, 0.01, 0.2, 0.5, 1.0])
def test_replacements_do_not_run_out_by_chance(budget):
  tries = health.Health(10, budget).max_tries
  assert tries < 100 and (budget == 1 or budget**tries < 1e-19)
