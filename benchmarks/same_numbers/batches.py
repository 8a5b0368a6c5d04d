"""Runs inside a tree: the global batches of a run's first steps, as arrays.

  PYTHONPATH=TREE python -P batches.py WORKDIR NUM_STEPS OUTPUT.npz

The one part that knows a module of the trees by name, and their way to open a stream.
"""

import dataclasses
import importlib
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

# Where the stream has lived, the newest name first.
MODULES = ('data_pipelines.stream.stream', 'data_pipelines.loader')
MAX_LENGTH = 64


def main(workdir: str, num_steps: str, output: str) -> None:
  """Writes STEP/FIELD arrays, and STEP/examples: what was drawn, as JSON."""
  config = json.loads((pathlib.Path(workdir) / 'config.json').read_text())
  stream = open_stream(config, workdir)
  arrays = {'fingerprint': np.array(stream.fingerprint)}
  for step in range(int(num_steps)):
    bucket, drawn = stream.bucket_at(step).name, stream.examples_at(step)
    arrays[f'{step}/examples'] = np.array(json.dumps([bucket, drawn], sort_keys=True))
    batch = stream.batch_at(step)
    arrays |= {f'{step}/{name}': np.asarray(batch[name]) for name in sorted(batch)}
  stream.close()
  np.savez(output, **arrays)


def open_stream(config: Mapping, workdir: str):
  """The stream of a run's config, with the rows of all hosts."""
  module = find(MODULES)
  if not importlib.util.find_spec('i2vgen_jax.session'):
    return module.from_config(config, captions_as_bytes)
  session_lib = importlib.import_module('i2vgen_jax.session')
  session = session_lib.build(ml_collections.ConfigDict(config), workdir)
  fields = [
    dataclasses.replace(field, tokenize=captions_as_bytes) if hasattr(field, 'tokenize') else field
    for field in session.fields()
  ]
  return module.from_config(config, fields, kept=session.kept())


def captions_as_bytes(captions: Sequence[str]) -> np.ndarray:
  """Captions as int32 (B, MAX_LENGTH) of their UTF-8: in place of a tokenizer."""
  rows = [list(caption.encode()[:MAX_LENGTH]) for caption in captions]
  return np.array([row + [0] * (MAX_LENGTH - len(row)) for row in rows], np.int32)


def find(names: Sequence[str]):
  """The first of some modules that this tree has."""
  for name in names:
    parent = name.rpartition('.')[0]
    if importlib.util.find_spec(parent) and importlib.util.find_spec(name):
      return importlib.import_module(name)
  raise ModuleNotFoundError(f'none of {names} is in this tree: name its module in MODULES.')


if __name__ == '__main__':
  main(*sys.argv[1:])
