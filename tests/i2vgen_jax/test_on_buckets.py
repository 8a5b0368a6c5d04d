"""Runs whose corpus, weights, workdir and outputs are all on gs://, by the real clients."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import __main__ as data_commands
from data_pipelines import demo_corpus as demo
from data_pipelines.corpus import json_lines
from i2vgen_jax import train
from i2vgen_jax.stored import checkpoint, run_config
from tests import runs, tiny

DEMO = runs.ROOT / 'i2vgen_jax' / 'demo'
RUN = 'gs://held/run'
WIDER = '--config.unet.temporal_in_heads=8'  # diffusers knows no other.


def put(bucket, source, target):
  bucket.put(str(source), target, recursive=pathlib.Path(source).is_dir())


def check_lines(run, undisturbed, num_starts):
  """All lines of all attempts are there."""
  found, expected = runs.losses(run), runs.losses(undisturbed)
  assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
  np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5)
  events = [next(iter(row)) for row in json_lines.read(f'{run}/goodput.jsonl')]
  assert events.count('job_start_time') == events.count('training_prep_end_time') == num_starts
  assert events[-1] == 'job_end_time'


@pytest.mark.slow
def test_a_run_in_a_bucket_goes_on_and_keeps_every_line(gs_bucket, finished_run, demo_corpus):
  put(gs_bucket, demo_corpus / 'videos', 'held/corpus/videos')
  for name in ('vae.safetensors', 'tokenizer'):
    put(gs_bucket, DEMO / name, f'held/{name}')
  config = tiny.get_config('gs://held/corpus')
  config.vae.weights, config.tokenizer = 'gs://held/vae.safetensors', 'gs://held/tokenizer'
  config.train.tensorboard = True
  for stop_at in (3, 0):
    config.train.stop_at = stop_at
    assert train.train(config, 'gs://held/alone') == 0
  check_lines('gs://held/alone', finished_run, 2)
  assert run_config.read('gs://held/alone').vae.weights == 'gs://held/vae.safetensors'
  assert len(gs_bucket.find('held/alone/tensorboard')) == 2


def test_a_workdir_in_another_kind_of_bucket_is_refused():
  for use in (run_config.read, checkpoint.latest_step):
    with pytest.raises(ValueError, match='s3://held/run.*a disk or on gs://'):
      use('s3://held/run')


def launch(logs, *flags):
  return subprocess.Popen(
    [
      sys.executable, '-m', 'launch', 'local', '--topology=2xcpu-1', f'--workdir={RUN}',
      '--config=tests/tiny.py:gs://held/corpus', '--config.mesh.data=2', f'--logs={logs}', '--go',
      '--config.checkpoint.every=1', '--config.tokenizer=gs://held/tokenizer', WIDER, *flags,
    ],
    cwd=runs.ROOT, env=runs.environment(), stderr=subprocess.PIPE, text=True,
  )  # fmt: skip


@pytest.mark.slow
def test_the_whole_path_from_videos_to_an_export(gs_bucket, demo_corpus, tmp_path):
  demo.write(str(tmp_path / 'demo'), num_videos=48, num_validation=16, num_images=32)
  put(gs_bucket, tmp_path / 'demo', 'held/demo')
  put(gs_bucket, DEMO / 'tokenizer', 'held/tokenizer')
  corpus = 'gs://held/corpus/videos'
  for command in (
    f'ingest --input=gs://held/demo/webvid --output={corpus} --num_processes=1',
    f'index --corpus={corpus} --output=gs://held/index',
  ):
    data_commands.main(command.split())

  process, log, killed = launch(tmp_path / 'logs', '--max_restarts=2'), [], False
  for line in process.stderr:
    log.append(line)
    if not killed and re.search(r'step [45]/6', line):
      pids = re.findall(r'launch: process \d is pid (\d+)', ''.join(log))
      os.kill(int(pids[1]), signal.SIGKILL)
      killed = True
  assert process.wait(timeout=600) == 0 and killed, ''.join(log)[-5000:]
  assert 'Resuming at step' in ''.join(log)
  undisturbed = tiny.get_config(demo_corpus)
  undisturbed.unet.temporal_in_heads = 8
  assert train.train(undisturbed, tmp_path / 'undisturbed') == 0
  check_lines(RUN, tmp_path / 'undisturbed', 2)

  put(gs_bucket, runs.ROOT / 'docs' / 'first_frame.png', 'held/first.png')
  gs_bucket.pipe_file('held/list.txt', b'first.png|||a red circle moves left\n')
  run, out = f'--workdir={RUN}', 'gs://held/out'
  config = ['--config=tests/tiny.py:gs://held/corpus', WIDER]
  picture = ['--image=gs://held/first.png', '--prompt=a red circle moves left']
  start = [f'--config.start={out}/loaded', f'--config.data.cache={out}/cache']
  lines = {
    'sample': ['sample', run, *picture, f'--output={out}/sample.mp4'],
    'list': ['sample', run, '--list=gs://held/list.txt', f'--output={out}/list'],
    'export': ['export', run, f'--output={out}/export'],
    'export again': ['export', run, f'--output={out}/export'],
    'torch': ['export', run, '--format=torch', f'--output={out}/torch'],
    'load': ['load', *config, f'--pipeline={out}/export', f'--output={out}/loaded'],
    'plan': ['plan', *config, '--topology=v5p-8', f'--json={out}/plan.json'],
    'precompute': ['precompute', *config, f'--output={out}/cache'],
    'train': ['train', *config, *start, '--workdir=gs://held/second'],
    'evaluate': ['evaluate', run, '--num_examples=2', '--steps=2'],
  }
  done = runs.commands({name: [f'i2vgen_jax.{line[0]}', *line[1:]] for name, line in lines.items()})
  code, _, stderr = done.pop('export again')
  assert code == 2 and 'exists: remove it' in stderr
  for name, (code, _, stderr) in done.items():
    assert code == 0, f'{name}: {stderr[-3000:]}'
  for name in ('sample.mp4', 'list/0001_first.mp4'):
    assert b'ftyp' in gs_bucket.cat_file(f'held/out/{name}')[:16]
  for name in ('out/plan.json', 'out/torch/modeling.py', 'run/evaluation/index.html'):
    assert gs_bucket.exists(f'held/{name}')
  assert len(runs.losses('gs://held/second')) == 6
