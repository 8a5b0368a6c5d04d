"""Captions to token ids: what OpenCLIP trained with, up to the padding that the tokenizer names."""

import numpy as np
import pytest

from configs import common, demo
from i2vgen_jax.models import clip
from i2vgen_jax.pretrained import tokenizers

LENGTH = 16
END = '<|endoftext|>'


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.load_clip(f'{demo.DEMO}/tokenizer', END)


@pytest.fixture(scope='module')
def tokenize():
  text_encoder = clip.CLIPText(vocab_size=856, max_length=LENGTH)
  return tokenizers.clip(f'{demo.DEMO}/tokenizer', END, text_encoder)


def test_a_caption_is_framed_by_start_and_end_and_then_padded(tokenize, tokenizer):
  (ids,) = tokenize(['a red circle moves left'])
  words = tokenizer.convert_tokens_to_ids(tokenizer.tokenize('a red circle moves left'))
  framed = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
  padding = [tokenizer.pad_token_id] * (LENGTH - len(framed))
  assert ids.dtype == np.int32 and ids.tolist() == framed + padding


def test_a_caption_too_long_keeps_its_end_token_in_the_last_place(tokenize, tokenizer):
  long, longer = tokenize(['red ' * 14, 'red ' * 40])
  np.testing.assert_array_equal(long, longer)
  assert long[-1] == tokenizer.eos_token_id and np.all(long[1:-1] == long[1])


@pytest.mark.parametrize(
  'typed, plain',
  [
    ('the circle’s “left”', 'the circle\'s "left"'),
    ('red &amp; blue', 'red & blue'),
    ('  A RED\n circle', 'a red circle'),
    ('ﬂat', 'flat'),
  ],
)
def test_text_is_cleaned_as_open_clip_does(tokenize, typed, plain):
  """transformers does so only where ftfy is installed, and else gives other ids without a word."""
  np.testing.assert_array_equal(*tokenize([typed, plain]))


def test_padding_is_the_token_that_the_config_names(tokenize):
  text_encoder = clip.CLIPText(vocab_size=856, max_length=LENGTH)
  released = tokenizers.clip(f'{demo.DEMO}/tokenizer', common.release().pad_token, text_encoder)
  ids, with_end = released(['a red circle'])[0], tokenize(['a red circle'])[0]
  assert ids[5:].tolist() == [0] * (LENGTH - 5)  # As OpenCLIP pads.
  np.testing.assert_array_equal(ids[:5], with_end[:5])
  with pytest.raises(ValueError, match="pad_token='<pad>' is no token of tokenizer"):
    tokenizers.load_clip(f'{demo.DEMO}/tokenizer', '<pad>')
