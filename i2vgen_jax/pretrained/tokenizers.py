"""Captions to token ids, by the tokenizer's own files in a folder; never from the network."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import transformers
from etils import epath

# `tokenizer.json` is of the tokenizers library, `spiece.model` of sentencepiece: one is needed.
T5_FILES = (
  'tokenizer.json',
  'spiece.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
)


def copy_files(
  names: Sequence[str], source: str | os.PathLike[str], target: str | os.PathLike[str]
) -> None:
  """Copies those of the named files that `source` has and `target`, a folder, lacks.

  Args:
    names: of files.
    source, target: local folders or buckets.
  """
  source, target = epath.Path(source), epath.Path(target)
  for name in names:
    if (source / name).exists() and not (target / name).exists():
      (target / name).write_bytes((source / name).read_bytes())


def load_t5(folder: str | os.PathLike[str]) -> transformers.PreTrainedTokenizerBase:
  """transformers' T5 tokenizer of a folder, local or a bucket.

  It reads `tokenizer.json` if there is one and `spiece.model` otherwise. Both give equal ids.

  Raises:
    ValueError: the folder has neither.
  """
  source = epath.Path(folder)
  with tempfile.TemporaryDirectory() as local:  # transformers reads no buckets.
    copy_files(T5_FILES, source, local)
    if (pathlib.Path(local) / 'tokenizer.json').exists():
      # A folder may say add_prefix_space=True, by which transformers converts `spiece.model` anew.
      return transformers.T5TokenizerFast.from_pretrained(
        local, local_files_only=True, add_prefix_space=None
      )
    if (pathlib.Path(local) / 'spiece.model').exists():
      # legacy: sentencepiece's own ids. Else transformers edits its model first, by protobuf.
      return transformers.T5Tokenizer.from_pretrained(local, local_files_only=True, legacy=True)
  raise ValueError(
    f'T5 tokenizer {os.fspath(folder)!r} is no folder with tokenizer.json or spiece.model: give '
    "the tokenizer's folder of a T5 checkpoint."
  )


def make_t5_tokenize(
  folder: str | os.PathLike[str], vocab_size: int, max_length: int, pad_id: int
) -> Callable[[Sequence[str]], np.ndarray]:
  """captions -> int32 (B, max_length), each ended by </s>, cut before it or padded after it.

  Args:
    folder: see `load_t5`.
    vocab_size: rows of the encoder's embedding; the tokenizer may know fewer tokens.
    max_length: in tokens, </s> included.
    pad_id: the id that the encoder masks.

  Raises:
    ValueError: no tokenizer there, an id that the encoder has no row for, or another padding.
  """
  tokenizer = load_t5(folder)
  num_ids = max(tokenizer.get_vocab().values()) + 1
  if num_ids > vocab_size:
    raise ValueError(
      f'T5 tokenizer {os.fspath(folder)!r} has {num_ids} ids but the encoder only vocab_size='
      f'{vocab_size} rows: they do not belong together. Give the tokenizer of its own checkpoint.'
    )
  if tokenizer.pad_token_id != pad_id:
    raise ValueError(
      f'T5 tokenizer {os.fspath(folder)!r} pads with id {tokenizer.pad_token_id}, the encoder '
      f'masks id {pad_id}: it is no tokenizer of T5. Give that of a T5 checkpoint.'
    )

  def tokenize(captions: Sequence[str]) -> np.ndarray:
    ids = tokenizer(list(captions), padding='max_length', truncation=True, max_length=max_length)
    return np.asarray(ids['input_ids'], np.int32)

  return tokenize
