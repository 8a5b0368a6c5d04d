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
  block, _, field = name.rpartition('.')
  fields = config[block] if block else config
  for value in (below, math.nan, math.inf):
    kind = type(fields[field])
    if kind is int and not math.isfinite(value):
      continue  # A config takes no other type.
    wrong = dict(fields) | {field: kind(value)}
    wrong = {block: wrong} if block else wrong
    with pytest.raises(ValueError, match=f'{name}=.* must lie in '):
      ranges.check(wrong)


@pytest.mark.parametrize('name', ranges.DTYPES)
def test_types_are_those_that_jax_computes_with(name):
  config = common.release().unlock()
  for known in ranges.DTYPES[name]:
    config.update_from_flattened_dict({name: known})
    ranges.check(config)
  config.update_from_flattened_dict({name: 'fp16'})
  with pytest.raises(ValueError, match=f"{name}='fp16' is unknown; known: bfloat16"):
    ranges.check(config)


def test_the_ends_of_a_range_are_as_its_brackets_say():
  ranges.check_number('sample.eta', 1.0)
  ranges.check_number('optimizer.b1', 0.0)
  for name, value in (('optimizer.b1', 1.0), ('sample.eta', 1.01), ('lora.alpha', 0.0)):
    with pytest.raises(ValueError, match=rf'{name}={value} must lie in .'):
      ranges.check_number(name, value)
