"""Captions to token ids, by the tokenizer of a folder; never from the network."""

import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import transformers
from etils import epath

from i2vgen_jax.models import clip as clip_model
from i2vgen_jax.process import paths

CLIP_FILES = ('vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json')


def folder(config, workdir: str | None = None) -> str:
  """Where a run's tokenizer lies: its own copy, else the config's, else that of its start."""
  if workdir and (epath.Path(workdir) / 'tokenizer').exists():
    return os.fspath(epath.Path(workdir) / 'tokenizer')
  if config.start and not config.tokenizer:
    return os.fspath(epath.Path(config.start) / 'tokenizer')
  return config.tokenizer


def keep(source: str, workdir: str) -> None:
  """Copies a tokenizer's files into the workdir, so that the run needs no other folder."""
  found, copy = paths.find(source), epath.Path(workdir) / 'tokenizer'
  copy.mkdir(parents=True, exist_ok=True)
  for name in CLIP_FILES:
    if (found / name).exists() and not (copy / name).exists():
      (copy / name).write_text((found / name).read_text())


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
    for name in CLIP_FILES:
      if (source / name).exists():
        (pathlib.Path(local) / name).write_text((source / name).read_text(), encoding='utf-8')
    tokenizer = transformers.CLIPTokenizer.from_pretrained(local, local_files_only=True)
  if pad_token not in tokenizer.get_vocab():
    raise ValueError(f'pad_token={pad_token!r} is no token of tokenizer {path!r}.')
  tokenizer.pad_token = pad_token
  return tokenizer


def clip(
  path: str, pad_token: str, text_encoder: clip_model.CLIPText
) -> Callable[[Sequence[str]], np.ndarray]:
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
      f'{text_encoder.vocab_size}: they do not belong together.'
    )
  length = min(tokenizer.model_max_length, text_encoder.max_length)

  def tokenize(captions):
    ids = tokenizer(list(captions), padding='max_length', truncation=True, max_length=length)
    return np.asarray(ids['input_ids'], np.int32)

  return tokenize
