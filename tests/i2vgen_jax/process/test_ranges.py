"""The numbers of a config lie in their ranges."""

import math

import pytest

from configs import common
from i2vgen_jax.process import ranges


@pytest.mark.parametrize('name', ranges.RANGES)
def test_each_field_is_one_of_the_config_whose_default_lies_in_its_range(name):
  config = common.release()
  ranges.check(config)
  low = float(ranges.RANGES[name][1:].partition(',')[0])
  below = low if ranges.RANGES[name][0] == '(' else low - 1
  block, field = name.split('.')
  for value in (below, math.nan, math.inf):
    kind = type(config[block][field])
    if kind is int and not math.isfinite(value):
      continue  # A config takes no other type.
    wrong = {block: dict(config[block]) | {field: kind(value)}}
    with pytest.raises(ValueError, match=f'{name}=.* must lie in '):
      ranges.check(wrong)


def test_the_ends_of_a_range_are_as_its_brackets_say():
  ranges.check_number('sample.eta', 1.0)
  ranges.check_number('optimizer.b1', 0.0)
  for name, value in (('optimizer.b1', 1.0), ('sample.eta', 1.01), ('lora.alpha', 0.0)):
    with pytest.raises(ValueError, match=rf'{name}={value} must lie in .'):
      ranges.check_number(name, value)
