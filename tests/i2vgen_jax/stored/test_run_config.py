"""A run's config in its workdir: what may change between two starts."""

import logging

import pytest

from i2vgen_jax.stored import run_config
from tests import tiny


@pytest.fixture
def workdir(tmp_path):
  run_config.write(tmp_path, tiny.get_config('none', num_steps=6))
  (tmp_path / 'checkpoints' / '6').mkdir(parents=True)
  return tmp_path


@pytest.mark.parametrize('schedule', ['constant', 'cosine'])
def test_a_run_can_be_extended_and_says_what_that_does_to_the_learning_rate(
  schedule, workdir, caplog
):
  config = tiny.get_config('none', num_steps=6)
  config.optimizer.schedule = schedule
  run_config.write(workdir, config)
  config.train.num_steps = 9
  with caplog.at_level(logging.WARNING, logger='absl'):
    run_config.check(workdir, config)
  assert 'extended from 6 to 9 steps' in caplog.text
  assert ('The cosine now ends there' in caplog.text) == (schedule == 'cosine')


def test_a_run_is_not_shortened_but_told_how_to_end_earlier(workdir):
  with pytest.raises(ValueError, match='num_steps=4.* with 6.*--config.train.stop_at=4'):
    run_config.check(workdir, tiny.get_config('none', num_steps=4))


def test_all_else_is_still_compared_when_a_run_is_extended(workdir):
  config = tiny.get_config('none', num_steps=9)
  config.unet.head_dim = 16
  with pytest.raises(ValueError, match='another config: unet.head_dim: 8 -> 16. Use'):
    run_config.check(workdir, config)
