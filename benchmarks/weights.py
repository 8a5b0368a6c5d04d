"""Released-size weights in and out: seconds, and peak memory against the size of what is read.

  python -m benchmarks.weights --folder=DIR [--config=configs/base.py]

Random weights of all four networks go through the commands as a user runs them, each a process of
its own: load from diffusers' names, export to diffusers and VGen, load VGen's, export again. What
comes back must equal what went in, to the bit. DIR needs 40 GB at released sizes.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import jax
import numpy as np
import safetensors.numpy

from i2vgen_jax import session as session_lib
from i2vgen_jax.demo import make_tokenizer
from i2vgen_jax.pretrained import files, read, tensors
from i2vgen_jax.pretrained import frozen as frozen_lib


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--folder', required=True)
  parser.add_argument('--config', default='configs/base.py')
  parser.add_argument('--make', action='store_true', help='only write the random weights')
  options = parser.parse_args()
  folder = pathlib.Path(options.folder).absolute()
  if options.make:
    make(folder, options.config)
    return
  folder.mkdir(parents=True)
  run('make', __spec__.name, f'--folder={folder}', f'--config={options.config}', '--make')
  load = ('i2vgen_jax.load', f'--config={options.config}', f'--pipeline={folder}/in')
  export = 'i2vgen_jax.export', f'--workdir={folder}/loaded'
  sizes = {part.name: num_bytes(part) for part in (folder / 'in').iterdir() if part.is_dir()}
  total, unet = sum(sizes.values()), sizes['unet']
  run('load, diffusers', *load, f'--output={folder}/loaded', size=total)
  run('export, diffusers', *export, f'--output={folder}/out', size=total)
  check_equal(folder / 'in', folder / 'out')
  shutil.rmtree(folder / 'out')
  run(
    'export, diffusers, float16', *export, f'--output={folder}/half', '--dtype=float16', size=total
  )
  shutil.rmtree(folder / 'half')
  run('export, VGen', *export, f'--output={folder}/1.pth', '--format=vgen', size=unet)
  shutil.rmtree(folder / 'loaded')
  run('load, VGen', *load, f'--unet={folder}/1.pth', f'--output={folder}/loaded', size=total)
  run('export, VGen', *export, f'--output={folder}/2.pth', '--format=vgen', size=unet)
  check_equal(folder / '1.pth', folder / '2.pth')
  shutil.rmtree(folder)


def make(folder, config_file):
  """Writes a diffusers pipeline of normal random numbers, and a tokenizer of as many tokens."""
  config = read_config(config_file)
  vocabulary = config.text_encoder.model.vocab_size
  write_tokenizer(folder / 'in' / 'tokenizer', vocabulary)
  config.tokenizer = str(folder / 'in' / 'tokenizer')
  built = session_lib.build(config)
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = frozen_lib.abstract(built.networks)
  shapes['unet'] = jax.eval_shape(built.unet.init, key, *built.smallest_unet_zeros())['params']
  random = np.random.default_rng(0)
  for network in shapes:
    name_of, _ = read.NETWORKS[network]
    weights = jax.tree.map(
      lambda leaf: 0.02 * random.standard_normal(leaf.shape, np.float32), shapes[network]
    )
    path = folder / 'in' / network / 'diffusion_pytorch_model.safetensors'
    path.parent.mkdir()
    safetensors.numpy.save_file(tensors.to_torch(weights, name_of), path)
  (folder / 'in' / 'model_index.json').write_text('{}')


def read_config(path):
  """The config of a file, as the commands' --config reads it."""
  spec = importlib.util.spec_from_file_location('config', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config()


def write_tokenizer(folder, size):
  """The demo's tokenizer with filler before its last two tokens, which mark start and end."""
  folder.mkdir(parents=True)
  contents = make_tokenizer.files()
  *words, start, end = json.loads(contents['vocab.json'])
  words += [f'filler{number}</w>' for number in range(size - len(words) - 2)]
  contents['vocab.json'] = json.dumps({word: i for i, word in enumerate([*words, start, end])})
  for name, content in contents.items():
    (folder / name).write_text(content, encoding='utf-8')


def run(what, *command, size=None):
  """Runs a module and prints what it took."""
  start = time.time()
  process = subprocess.Popen([sys.executable, '-m', *command], stderr=subprocess.PIPE, text=True)
  errors = process.stderr.read()
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise SystemExit(f'{what} failed:\n{errors[-4000:]}')
  cpu_secs, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
  ratio = f', {peak / size:.2f}x of {size / 2**30:.2f} GiB' if size else ''
  took = f'{time.time() - start:.0f} s, CPU {cpu_secs:.0f} s'
  print(f'{what}: {took}, peak {peak / 2**30:.2f} GiB{ratio}', flush=True)


def num_bytes(folder):
  return sum(file.stat().st_size for file in folder.rglob('*.safetensors'))


def check_equal(given, returned):
  """Raises unless two pipelines, or two files, hold the same tensors to the bit."""
  parts = [part for part in read.NETWORKS if (given / part).is_dir()]
  for part in parts if given.is_dir() else ('',):
    old, new = (files.open_checkpoint(path / part) for path in (given, returned))
    if old.keys() != new.keys():
      raise SystemExit(
        f'{returned}: other names than {given}: {sorted(old.keys() ^ new.keys())[:5]}'
      )
    for name in old:
      if not np.array_equal(np.asarray(old[name]), np.asarray(new[name])):
        raise SystemExit(f'{returned}: {name} is not that of {given}.')
  print(f'{returned.name} equals {given.name} to the bit', flush=True)


if __name__ == '__main__':
  main()
