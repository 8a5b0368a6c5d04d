"""Writes the demo's tokenizers: CLIP's byte-pair encoding with vocabularies of our own.

  python -m i2vgen_jax.demo.make_tokenizer --output=i2vgen_jax/demo/tokenizer
  python -m i2vgen_jax.demo.make_tokenizer --output=i2vgen_jax/demo/scenes/tokenizer --kind=scenes

Like CLIP's, the vocabulary starts with one symbol per byte, alone and at the end of a word, so that
any text can be written, and ends with the two special tokens. Between them are the merges that make
one token of each word of `words`. Running it reproduces the folders in the repository.
"""

from absl import flags

from i2vgen_jax.process import cli, tables

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('output', None, 'Folder to write the four files to.')
  known = tables.names('data_pipelines/demo_corpus/kinds.py', 'KINDS')
  flags.DEFINE_enum('kind', 'shapes', known, 'Kind of demo corpus whose captions it reads.')
  flags.mark_flags_as_required(['output'])
  cli.run(__file__)

import json
import pathlib
from collections.abc import Sequence

from data_pipelines.demo_corpus import captions

WORDS = """
  a an the of in on and is are to from with no it its
  video image picture photo still scene frame background
  moves move moving stays left right up down across slowly fast towards
  red green blue yellow purple cyan orange pink white black gray brown dark light bright
  circle square triangle star ring shape big small large little one two
  blurry static motionless distorted disfigured discontinuous ugly low resolution quality
  person man woman child dog cat bird fish horse car boat plane train tree flower
  house street city river sea water sky sun moon snow fire food hand face
  walking running playing looking standing sitting flying into out at
""".split()

START, END = '<|startoftext|>', '<|endoftext|>'
# Start and end tokens, and room for any caption of the demo.
MAX_LENGTH = 16


def words(kind: str) -> list[str]:
  """The words that are one token each, for a kind of demo corpus."""
  more = captions.vocabulary() if kind == 'scenes' else []
  return list(dict.fromkeys([*WORDS, *more]))


def byte_symbols() -> list[str]:
  """One printable character per byte, in the order of GPT-2's and CLIP's vocabularies."""
  printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(0xAE, 0x100)]
  others = 256 - len(printable)
  return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(others)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
  """Merges after which each word is one symbol, in order of rank.

  A word is merged by what the words before it left, then its first two symbols are joined until
  one remains. Later merges have lower rank and leave earlier words whole.
  """
  merges = []
  for word in words:
    symbols = [*word[:-1], f'{word[-1]}</w>']
    for merge in merges:
      symbols = _apply(merge, symbols)
    while len(symbols) > 1:
      merges.append((symbols[0], symbols[1]))
      symbols = _apply(merges[-1], symbols)
  return merges


def files(kind: str = 'shapes') -> dict[str, str]:
  """The content of each file of a tokenizer's folder, as transformers' CLIPTokenizer reads it."""
  symbols = byte_symbols()
  merges = learn_merges(words(kind))
  tokens = [*symbols, *(f'{symbol}</w>' for symbol in symbols)]
  tokens += [*dict.fromkeys(''.join(merge) for merge in merges), START, END]
  special_tokens = dict(bos_token=START, eos_token=END, pad_token=END, unk_token=END)
  config = dict(
    tokenizer_class='CLIPTokenizer',
    model_max_length=MAX_LENGTH,
    do_lower_case=True,
    add_prefix_space=False,
    errors='replace',
    clean_up_tokenization_spaces=True,
    **special_tokens,
  )
  return {
    'vocab.json': json.dumps({token: index for index, token in enumerate(tokens)}, indent=0),
    'merges.txt': '\n'.join(['#version: 0.2', *(' '.join(merge) for merge in merges)]) + '\n',
    'tokenizer_config.json': json.dumps(config, indent=2) + '\n',
    'special_tokens_map.json': json.dumps(special_tokens, indent=2) + '\n',
  }


def main() -> None:
  """Writes the folder."""
  output = pathlib.Path(flags.FLAGS.output)
  output.mkdir(parents=True, exist_ok=True)
  for name, content in files(flags.FLAGS.kind).items():
    (output / name).write_text(content, encoding='utf-8')


def _apply(merge: tuple[str, str], symbols: list[str]) -> list[str]:
  """Joins every occurrence of a pair of neighbours, from left to right."""
  merged = []
  for symbol in symbols:
    if merged and (merged[-1], symbol) == merge:
      merged[-1] += symbol
    else:
      merged.append(symbol)
  return merged
