"""Captions to token ids, by the tokenizer's own files in a folder; never from the network."""

import bisect
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import transformers
from etils import epath

from i2vgen_jax.models import clip as clip_model
from i2vgen_jax.process import paths

CLIP_FILES = ('vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json')
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
    names: names of files.
    source, target: local folders or buckets.
  """
  source, target = epath.Path(source), epath.Path(target)
  target.mkdir(parents=True, exist_ok=True)
  for name in names:
    if (source / name).exists() and not (target / name).exists():
      (target / name).write_bytes((source / name).read_bytes())


def folder(
  name: str, given: str, start: str = '', workdir: str | os.PathLike[str] | None = None
) -> str:
  """Where a run's tokenizer lies: its own copy, else the config's, else that of its start.

  Args:
    name: name of the copy's folder in a workdir.
    given: the config's folder; '' takes the start's.
    start: workdir of the run that it starts from, or ''.
    workdir: workdir of the run, or None.
  """
  if workdir and (epath.Path(workdir) / name).exists():
    return os.fspath(epath.Path(workdir) / name)
  if start and not given:
    return os.fspath(epath.Path(start) / name)
  return given


def load_clip(path: str, pad_token: str) -> transformers.CLIPTokenizer:
  """transformers' CLIPTokenizer from a folder, padding with `pad_token`.

  Raises:
    ValueError: no tokenizer there, or it does not know `pad_token`.
  """
  source = paths.find(path)
  if not (source / 'vocab.json').exists():
    raise ValueError(
      f'tokenizer={path!r} is no folder with vocab.json and merges.txt. '
      'Point --config.tokenizer to the '
      'tokenizer/ folder of a CLIP or I2VGen-XL checkpoint.'
    )
  with tempfile.TemporaryDirectory() as local:  # transformers reads no buckets.
    copy_files(CLIP_FILES, source, local)
    tokenizer: Any = transformers.CLIPTokenizer.from_pretrained(local, local_files_only=True)
  if pad_token not in tokenizer.get_vocab():
    raise ValueError(f'pad_token={pad_token!r} is no token of tokenizer {path!r}.')
  tokenizer.pad_token = pad_token
  return tokenizer


def clip(path: str, pad_token: str, text_encoder: clip_model.CLIPText) -> 'Tokenize':
  """captions -> int32 (B, max_length), truncated and padded.

  Args:
    path: folder of the tokenizer.
    pad_token: what captions are padded with.
    text_encoder: the tower that reads the ids.

  Raises:
    ValueError: vocabulary or length is not the text encoder's.
  """
  tokenizer = load_clip(path, pad_token)
  if len(tokenizer) != text_encoder.vocab_size:
    raise ValueError(
      f'tokenizer {path!r} knows {len(tokenizer)} tokens but text_encoder.model.vocab_size='
      f'{text_encoder.vocab_size}: they do not belong together. Give the tokenizer of its own '
      'checkpoint, or the config of its model.'
    )
  length = min(tokenizer.model_max_length, text_encoder.max_length)
  return Tokenize(tokenizer, length)


def load_t5(path: str | os.PathLike[str]) -> transformers.PreTrainedTokenizerBase:
  """transformers' T5 tokenizer of a folder, local or a bucket.

  It reads `tokenizer.json` if there is one and `spiece.model` otherwise. Both give equal ids.

  Raises:
    ValueError: the folder has neither.
  """
  source = paths.find(os.fspath(path))
  with tempfile.TemporaryDirectory() as local:  # transformers reads no buckets.
    copy_files(T5_FILES, source, local)
    if (pathlib.Path(local) / 'tokenizer.json').exists():
      # A folder may say add_prefix_space=True, by which transformers converts `spiece.model` anew.
      # pyrefly: ignore[bad-return]
      return transformers.T5TokenizerFast.from_pretrained(
        local, local_files_only=True, add_prefix_space=None
      )
    if (pathlib.Path(local) / 'spiece.model').exists():
      # legacy: sentencepiece's own ids. Else transformers edits its model first, by protobuf.
      # pyrefly: ignore[bad-return]
      return transformers.T5Tokenizer.from_pretrained(local, local_files_only=True, legacy=True)
  raise ValueError(
    f'T5 tokenizer {os.fspath(path)!r} is no folder with tokenizer.json or spiece.model: give '
    "the tokenizer's folder of a T5 checkpoint."
  )


def t5(path: str | os.PathLike[str], vocab_size: int, max_length: int, pad_id: int) -> 'Tokenize':
  """captions -> int32 (B, max_length), each ended by </s>, cut before it or padded after it.

  Args:
    path: folder of the tokenizer, see `load_t5`.
    vocab_size: rows of the encoder's embedding; the tokenizer may know fewer tokens.
    max_length: most tokens, </s> included.
    pad_id: the id that the encoder masks.

  Raises:
    ValueError: no tokenizer there, an id that the encoder has no row for, or another padding.
  """
  tokenizer = load_t5(path)
  num_ids = max(tokenizer.get_vocab().values()) + 1
  if num_ids > vocab_size:
    raise ValueError(
      f'T5 tokenizer {os.fspath(path)!r} has {num_ids} ids but the encoder only vocab_size='
      f'{vocab_size} rows: they do not belong together. Give the tokenizer of its own checkpoint.'
    )
  if tokenizer.pad_token_id != pad_id:
    raise ValueError(
      f'T5 tokenizer {os.fspath(path)!r} pads with id {tokenizer.pad_token_id}, the encoder '
      f'masks id {pad_id}: it is no tokenizer of T5. Give that of a T5 checkpoint.'
    )
  return Tokenize(tokenizer, max_length)


def t5_pieces(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The unigram model of a T5 tokenizer's folder: pieces ([text, log probability] by id), unknown
  and end (ids).

  Raises:
    ValueError: the folder has no tokenizer, or one of another kind.
  """
  tokenizer: Any = load_t5(path)
  if tokenizer.is_fast:
    model = json.loads(tokenizer.backend_tokenizer.to_str())['model']
    if model['type'] != 'Unigram':
      raise ValueError(f"T5 tokenizer {os.fspath(path)!r} is a {model['type']}, T5's are Unigram.")
    pieces, unknown = model['vocab'], model['unk_id']
  else:
    model = tokenizer.sp_model
    pieces = [[model.id_to_piece(i), model.get_score(i)] for i in range(len(model))]
    unknown = model.unk_id()
  return dict(pieces=pieces, unknown=unknown, end=tokenizer.eos_token_id)


class Tokenize:
  """captions -> int32 (B, length), truncated and padded.

  Args:
    tokenizer: of transformers.
    length: tokens of each caption.
  """

  def __init__(self, tokenizer: transformers.PreTrainedTokenizerBase, length: int):
    self._tokenizer: Any = tokenizer
    self.length = length

  def __call__(self, captions: Sequence[str]) -> np.ndarray:
    """The ids."""
    ids = self._tokenizer(
      list(captions), padding='max_length', truncation=True, max_length=self.length
    )
    return np.asarray(ids['input_ids'], np.int32)

  def beyond(self, caption: str) -> str:
    """The words that are not read as a whole; '' if all are."""
    words = caption.split()

    def count(number: int) -> int:
      """Tokens of so many words."""
      return len(self._tokenizer(' '.join(words[:number]), verbose=False)['input_ids'])

    kept = bisect.bisect_right(range(len(words) + 1), self.length, key=count) - 1
    return ' '.join(words[kept:])
