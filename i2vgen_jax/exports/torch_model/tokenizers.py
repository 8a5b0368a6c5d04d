"""Captions to token ids."""

import json
import math
import pathlib
import re
import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor


class ClipTokenizer:
  """CLIP's byte-pair encoding.

  Args:
    folder: with vocab.json and merges.txt.
    pad_token: what fills a caption up.
    length: of all captions.
  """

  # Letters, single digits, or a run of other signs; English contractions by themselves.
  WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")
  START, END = '<|startoftext|>', '<|endoftext|>'

  def __init__(self, folder: pathlib.Path, pad_token: str, length: int) -> None:
    self.ids = json.loads((folder / 'vocab.json').read_text('utf-8'))
    merges = (folder / 'merges.txt').read_text('utf-8').strip().split('\n')[1:]
    self.ranks = {tuple(line.split()): rank for rank, line in enumerate(merges)}
    self.pad_token, self.length = pad_token, length
    # A printable character for each byte.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    self.signs = {byte: chr(byte) for byte in plain}
    self.signs |= {byte: chr(256 + i) for i, byte in enumerate(other)}

  def __call__(self, captions: Sequence[str]) -> Tensor:
    """int64 (B, length)."""
    rows = []
    for caption in captions:
      words = self.WORD.findall(unicodedata.normalize('NFC', caption).lower())
      pieces = [piece for word in words for piece in self._merge(word)][: self.length - 2]
      row = [self.START, *pieces, self.END]
      row += [self.pad_token] * (self.length - len(row))
      rows.append([self.ids.get(piece, self.ids[self.END]) for piece in row])
    return torch.tensor(rows)

  def _merge(self, word: str) -> list[str]:
    """Joins neighbours, those that were joined first in training first."""
    pieces = [self.signs[byte] for byte in word.encode()]
    pieces[-1] += '</w>'
    while len(pieces) > 1:
      pair = min(zip(pieces, pieces[1:], strict=False), key=lambda p: self.ranks.get(p, math.inf))
      if pair not in self.ranks:
        break
      joined, i = [], 0
      while i < len(pieces):
        step = 2 if tuple(pieces[i : i + 2]) == pair else 1
        joined.append(''.join(pieces[i : i + step]))
        i += step
      pieces = joined
    return pieces


class T5Tokenizer:
  """T5's unigram model: the likeliest pieces of a caption (Kudo 2018, arXiv:1804.10959).

  Text is normalised by NFKC, which is what sentencepiece does to all but rare signs.

  Args:
    path: JSON with pieces ([text, log probability] by id), unknown and end (ids).
    length: of all captions.
  """

  def __init__(self, path: pathlib.Path, length: int) -> None:
    content = json.loads(path.read_text('utf-8'))
    self.unknown, self.end, self.length = content['unknown'], content['end'], length
    self.pieces = {text: (score, i) for i, (text, score) in enumerate(content['pieces'])}
    self.longest = max(map(len, self.pieces))
    self.unknown_score = min(score for score, _ in self.pieces.values()) - 10

  def __call__(self, captions: Sequence[str]) -> Tensor:
    """int64 (B, length), padded by 0."""
    rows = [self._split(caption)[: self.length - 1] + [self.end] for caption in captions]
    return torch.tensor([row + [0] * (self.length - len(row)) for row in rows])

  def _split(self, caption: str) -> list[int]:
    words = unicodedata.normalize('NFKC', caption).split()
    text = ''.join(f'\N{LOWER ONE EIGHTH BLOCK}{word}' for word in words)
    best: list[tuple[float, int, int]] = [(0.0, 0, 0)]  # Score, start and id of the last piece.
    for stop in range(1, len(text) + 1):
      unknown = (best[stop - 1][0] + self.unknown_score, stop - 1, self.unknown)
      found = [unknown]
      for start in range(max(0, stop - self.longest), stop):
        if (piece := self.pieces.get(text[start:stop])) is not None:
          found.append((best[start][0] + piece[0], start, piece[1]))
      best.append(max(found))
    ids, stop = [], len(text)
    while stop:
      _, stop, piece = best[stop]
      if not (ids and ids[-1] == piece == self.unknown):  # One for a run of unknown signs.
        ids.append(piece)
    return ids[::-1]
