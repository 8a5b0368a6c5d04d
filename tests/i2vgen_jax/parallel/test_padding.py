import numpy as np
import pytest

from i2vgen_jax.parallel import padding


@pytest.mark.parametrize(
  ('total', 'size', 'shards'), [(10, 4, 1), (8, 4, 2), (3, 16, 4), (5, 5, 8), (1, 1, 1)]
)
def test_steps_are_of_one_size_and_count_each_row_once(total, size, shards):
  """The rows that count are 0..total-1 in order; what fills up a step repeats the last one."""
  steps = list(padding.steps_of_rows(total, size, shards))
  assert len({len(rows) for rows, _ in steps}) == 1
  assert size <= len(steps[0][0]) < size + shards
  assert len(steps[0][0]) % shards == 0
  assert np.concatenate([rows[:count] for rows, count in steps]).tolist() == list(range(total))
  assert all((rows[count:] == total - 1).all() for rows, count in steps)


def test_no_rows_have_no_steps():
  assert not list(padding.steps_of_rows(0, 4))
