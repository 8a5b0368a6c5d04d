"""A misspelt field of a config is told which field it may mean, at any depth."""

import re

import ml_collections
import pytest

from i2vgen_jax.process import config_flag

CONFIG = config_flag.load('configs/base_t5.py')  # It has every block that there is.


def fields(block, prefix=''):
  """Names of all values, at all depths."""
  for name in block:
    if isinstance(block[name], ml_collections.ConfigDict) and len(block[name]):
      yield from fields(block[name], f'{prefix}{name}.')
    else:
      yield prefix + name


def misspelt(word):
  """The word with a letter left out, two letters swapped, and a letter doubled, at three places."""
  for place in sorted({0, len(word) // 2, max(0, len(word) - 2)}):
    yield word[:place] + word[place + 1 :]
    yield word[:place] + word[place : place + 2][::-1] + word[place + 2 :]
    yield word[: place + 1] + word[place:]


def told(name):
  with pytest.raises(ValueError) as caught:
    config_flag.check_override(CONFIG, name)
  return str(caught.value)


def named(message):
  """The fields that a message names."""
  found = re.search(r'did you mean (.*)\?$', message)
  return found[1].split(', ') if found else []


def is_named(field, message):
  """Whether it is named, or another of a user's names that has such a field, as a bucket."""
  pattern = re.escape(field)
  for block in config_flag.OPEN:
    pattern = re.sub(rf'^({re.escape(re.escape(block))}\\\.)[^.]+(?=\\\.)', r'\1[^.]+', pattern)
  return any(re.fullmatch(pattern, each) for each in named(message))


def missed(wrong):
  """Of (name, the field that it means) those whose error does not name the field, and its error."""
  found = [(name, field, told(name)) for name, field in wrong]
  assert len(found) > 100
  return [(name, text) for name, field, text in found if not is_named(field, text)]


def misspelt_fields():
  """(block, misspelt name, field) of each field."""
  names = list(fields(CONFIG))
  ends = {name.rpartition('.')[2] for name in [*names, *CONFIG]}
  for field in names:
    block, _, end = field.rpartition('.')
    yield from ((block, word, field) for word in misspelt(end) if word and word not in ends)


def test_a_misspelt_name_is_told_the_field_that_it_means():
  wrong = [(f'{block}.{word}'.lstrip('.'), field) for block, word, field in misspelt_fields()]
  assert not (found := missed(wrong)), found[:20]


def test_a_misspelt_name_without_its_block_is_told_where_the_field_lives():
  wrong = [(word, field) for block, word, field in misspelt_fields() if block]
  assert not (found := missed(wrong)), found[:20]


def test_a_name_in_a_block_that_is_misspelt_or_left_out_is_told_where_the_field_lives():
  wrong, names = [], {*fields(CONFIG), *CONFIG}
  for field in fields(CONFIG):
    *blocks, end = field.split('.')
    for place, block in enumerate(blocks):
      for word in (*misspelt(block), ''):
        name = '.'.join(filter(None, [*blocks[:place], word, *blocks[place + 1 :], end]))
        if name.rpartition('.')[0] not in config_flag.OPEN and name not in names:
          wrong.append((name, field))
  assert not (found := missed(wrong)), found[:20]


@pytest.mark.parametrize(
  ('name', 'field'),
  [
    ('optimizer.peak_lr', 'optimizer.peak_learning_rate'),
    ('peak_learning_rate', 'optimizer.peak_learning_rate'),
    ('train.remat', 'unet.remat'),
    ('optimiser', 'optimizer'),
    ('mesh.fsp', 'mesh.fsdp'),
    ('data.directories.webvd', 'data.directories.webvid'),
    ('guidance', 'sample.guidance_scale'),
  ],
)
def test_the_likeliest_field_comes_first(name, field):
  assert named(told(name))[0] == field


def test_an_entry_of_the_users_own_and_nonsense_are_told_what_there_is():
  assert "has ['laion', 'webvid']: give all, as --config.data" in told('data.directories.mine')
  assert 'it has alpha, frozen_dtype, match, rank.' in told('lora.nonsense')
