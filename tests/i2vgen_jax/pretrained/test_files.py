"""Weights in a bucket: what a local path means there, and nothing else is copied."""

import json

import numpy as np
import pytest
import safetensors.numpy
import torch

from i2vgen_jax.pretrained import files


def read(path):
  with files.fetched(path) as local:
    folder = local if local.is_dir() else local.parent
    found = {name: np.asarray(value) for name, value in files.open_checkpoint(local).items()}
    return found, sorted(file.name for file in folder.iterdir())


def test_files_folders_and_shards_in_a_bucket_are_read(gs_bucket):
  for i in 'ab':
    stored = safetensors.numpy.save({i: np.full(3, ord(i))})
    gs_bucket.pipe_file(f'held/vae/part_{i}.safetensors', stored)
  index = {'weight_map': {i: f'part_{i}.safetensors' for i in 'ab'}}
  named = 'diffusion_pytorch_model.safetensors.index.json'
  gs_bucket.pipe_file(f'held/vae/{named}', json.dumps(index).encode())
  gs_bucket.pipe_file('held/vae/config.json', b'{}')
  gs_bucket.pipe_file('held/vae/other.bin', b'gigabytes')
  copied = ['config.json', named, 'part_a.safetensors', 'part_b.safetensors']
  for path in ('gs://held/vae', f'gs://held/vae/{named}'):
    found, names = read(path)
    assert {name: value.tolist() for name, value in found.items()} == {
      i: [ord(i)] * 3 for i in 'ab'
    }
    assert names == copied
  found, names = read('gs://held/vae/part_b.safetensors')
  assert list(found) == ['b'] and 'part_a.safetensors' not in names


def test_ema_shards_in_a_bucket_are_read_together(gs_bucket, tmp_path):
  for rank in range(2):
    torch.save({f't{rank}': torch.full((2,), float(rank))}, tmp_path / 'x.pth')
    gs_bucket.put(str(tmp_path / 'x.pth'), f'held/ema/ema_9_rank{rank}.pth')
  found, _ = read('gs://held/ema/ema_9_rank0.pth')
  assert set(found) == {'t0', 't1'}


@pytest.mark.parametrize('path', ['gs://held/absent.safetensors', 'gs://held/nothing'])
def test_what_is_not_there_is_named(gs_bucket, path):
  with pytest.raises(ValueError, match=f"No file '{path}'"):
    read(path)
