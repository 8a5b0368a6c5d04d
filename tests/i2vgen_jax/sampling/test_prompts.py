"""A prompt that is empty or too long is said before anything is sampled."""

import pytest

from i2vgen_jax import session as session_lib
from i2vgen_jax.sampling import prompts
from tests import tiny

WORDS = 'a red circle moves left and a blue square moves right and a green triangle moves up'


@pytest.fixture(scope='module')
def signals():
  """Of a model whose text tower reads 16 tokens, two of them the ends."""
  return session_lib.build(tiny.get_config('unused')).signals


@pytest.fixture
def said(monkeypatch):
  found = []
  monkeypatch.setattr(prompts.logging, 'warning', lambda text, *values: found.append(text % values))
  return found


def test_the_words_that_are_cut_off_are_named(signals, said):
  tokenize = signals['text'].tokenize
  fits = WORDS[: WORDS.index(' a green')]
  assert tokenize.length == 16 and tokenize.beyond(fits) == ''
  prompts.warn(signals, {'--prompt': fits, '--negative_prompt': None})
  assert not said
  prompts.warn(signals, {'--prompt': WORDS})
  [line] = said
  assert line.startswith('--prompt is cut: the model reads 16 tokens, so')
  lost = line.split('"')[1]
  assert line.endswith('" is left out.')
  assert lost.split() and WORDS.endswith(lost)
  read, first = WORDS.removesuffix(lost), lost.split()[0]
  sizes = [len(tokenize._tokenizer(text)['input_ids']) for text in (read, read + first)]
  assert sizes[0] <= 16 < sizes[1]


def test_t5_too_says_what_it_does_not_read(t5_tokenizer, said):
  config = tiny.get_config('unused')
  config.unet.conditioners = (dict(kind='t5_text'), *config.unet.conditioners[1:])
  config.t5 = tiny.t5(t5_tokenizer)
  found = session_lib.build(config).signals
  prompts.warn(found, {'the caption of line 3': WORDS})
  [line] = said
  assert line.startswith('the caption of line 3 is cut: the model reads 12 tokens, so "')
  assert WORDS.endswith(line.split('"')[1])


def test_an_empty_prompt_is_said_but_not_an_empty_negative_one(signals, said):
  prompts.warn(signals, {'--prompt': ' ', '--negative_prompt': ''})
  assert said == ['--prompt is empty: the model gets no text to follow.']
  said.clear()
  without = {name: signal for name, signal in signals.items() if not signal.reads_caption}
  prompts.warn(without, {'--prompt': ''})
  assert without and not said
