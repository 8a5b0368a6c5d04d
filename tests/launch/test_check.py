"""What would fail on a pod is said before one is booked, each with what to change."""

import time

import pytest

from configs import demo, meshes
from launch import check, kubernetes, local
from tests import emulators, runs, tiny
from tests.launch.test_launch import make_job

DEMO = runs.ROOT / 'i2vgen_jax' / 'demo'


def checked(config, name='v5p-8', target='gke', **fields):
  """Name of a check -> its Line."""
  made = make_job(name, **dict(training=('--config=c.py', '--workdir=gs://held/run')) | fields)
  render = {'gke': kubernetes.gke, 'local': local.show}[target]
  lines = list(check.Check(made, config, target, render).lines())
  assert len({line.name for line in lines}) == len(lines)
  return {line.name: line for line in lines}


def failed(lines):
  return {name for name, line in lines.items() if line.ok is False}


@pytest.fixture(scope='module')
def on_bucket(gs_bucket, demo_corpus):
  """The tiny config with all that it names in a bucket, for v5p-8."""
  gs_bucket.put(str(demo_corpus / 'videos'), 'held/corpus/videos', recursive=True)
  for name in ('vae.safetensors', 'tokenizer'):
    gs_bucket.put(str(DEMO / name), f'held/{name}', recursive=(DEMO / name).is_dir())

  def make():
    config = tiny.get_config('gs://held/corpus')
    config.mesh = meshes.get('v5p-8')
    config.vae.weights, config.tokenizer = 'gs://held/vae.safetensors', 'gs://held/tokenizer'
    return config

  return make


def test_a_run_whose_all_is_there_passes_and_leaves_no_trace(on_bucket, gs_bucket):
  lines = checked(on_bucket())
  assert not failed(lines), [str(lines[name]) for name in failed(lines)]
  assert '48 examples, 16 held out' in lines['corpus videos'].text
  assert lines['vae'].text.startswith('gs://held/vae.safetensors: 1 files')
  assert lines['memory'].ok and lines['draws'].ok
  assert '0, 1, 2, 3 end the run' in lines['exit codes'].text
  assert not gs_bucket.find('held/run')


def test_each_thing_that_is_missing_is_named_with_what_to_change(on_bucket):
  config = on_bucket()
  config.mesh = meshes.get('v5p-128')
  config.vae.weights = 'gs://held/nothing.safetensors'
  config.text_encoder.weights = ''
  config.tokenizer = 'gs://held/nothing'
  config.data.directories.more = 'gs://held/corpus/nothing'
  training = ('--config=c.py', '--workdir=gs://no-such-bucket/run')
  lines = checked(config, image='python', training=training)
  assert failed(lines) == {
    'image', 'mesh', 'workdir', 'corpus more', 'tokenizer', 'vae', 'text_encoder',
  }  # fmt: skip
  for name, cause in dict(batches='mesh', draws='corpus more', memory='mesh').items():
    assert lines[name].text == f'not checked: see {cause}'
  assert 'REGISTRY/PATH/NAME:TAG' in lines['image'].text
  assert 'Change --config.mesh.<axis>' in lines['mesh'].text
  assert 'gs://held/nothing.safetensors does not exist' in lines['vae'].text
  assert '--config.text_encoder.weights=' in lines['text_encoder'].text
  assert all('\n' not in str(line) for line in lines.values())


def test_what_only_this_machine_has_is_refused_for_a_pod_alone(demo_corpus, tmp_path):
  config = tiny.get_config(str(demo_corpus))
  (tmp_path / 'vae.safetensors').write_bytes((DEMO / 'vae.safetensors').read_bytes())
  config.vae.weights = str(tmp_path / 'vae.safetensors')
  training = ('--config=c.py', f'--workdir={tmp_path / "run"}')
  here = checked(config, 'cpu-1', 'local', training=training)
  assert not failed(here), [str(here[name]) for name in failed(here)]
  config.mesh = meshes.get('v5p-8')
  there = checked(config, training=training)
  assert failed(there) == {'workdir', 'corpus videos', 'vae'}  # The demo's tokenizer is shipped.
  assert all('on this machine alone' in there[name].text for name in failed(there))


def test_a_bucket_that_is_away_is_said_once_soon_and_after_what_is_known_without_it(
  demo_corpus, monkeypatch
):
  monkeypatch.setattr(check, 'ANSWER_SECS', 0.5)
  config = tiny.get_config(str(demo_corpus))
  config.mesh = meshes.get('v5p-8')
  config.data.directories.more = 'gs://held/more'
  config.vae.weights = 'gs://held/vae.safetensors'
  variables = emulators.GS_ENVIRONMENT | {'STORAGE_EMULATOR_HOST': 'http://localhost:9'}
  with emulators.environment(variables):
    begun = time.monotonic()
    lines = checked(config)
    assert time.monotonic() - begun < 60  # Its client alone tries as long.
  assert failed(lines) == {'corpus videos', 'workdir'}
  assert 'gs://held did not answer within 0.5 s' in lines['workdir'].text
  for part in ('network', 'gcloud auth application-default login', 'Is its name right?'):
    assert part in lines['workdir'].text
  for name in ('corpus more', 'vae'):
    assert lines[name].ok is None and lines[name].text == 'not checked: see workdir'
  assert lines['draws'].text == 'not checked: see corpus videos, workdir'
  names = list(lines)
  assert names.index('corpus videos') < names.index('workdir') and names[-1] == 'memory'


def test_shapes_that_no_example_fills_fail_and_few_examples_warn(demo_corpus, tmp_path):
  config = tiny.get_config(str(demo_corpus))
  training = ('--config=c.py', f'--workdir={tmp_path / "run"}')
  [bucket] = config.data.buckets
  config.data.buckets[bucket].batch_size = 64
  lines = checked(config, 'cpu-1', 'local', training=training)
  few = lines[f'bucket {bucket}']
  assert not failed(lines) and few.warns and str(few).startswith('warn ')
  assert '48 examples for batches of 64, which hold each several times' in few.text
  config.data.buckets[bucket].batch_size = 48
  assert not checked(config, 'cpu-1', 'local', training=training)[f'bucket {bucket}'].warns
  config.data.buckets.long = dict(config.data.buckets[bucket], frames=160)
  config.data.buckets.longer = dict(config.data.buckets[bucket], frames=320)
  lines = checked(config, 'cpu-1', 'local', training=training)
  assert failed(lines) == {'bucket long', 'bucket longer'}
  assert lines['draws'].text == 'not checked: see bucket long'


def test_a_batch_that_does_not_divide_and_a_device_that_is_too_small_are_told_apart():
  config = demo.get_config()
  config.mesh = meshes.get('v5e-64')
  assert {'batches'} <= failed(checked(config, 'v5e-64'))
  config = demo.get_config()
  config.mesh = meshes.get('all')
  config.data.buckets.videos.update(height=1280, width=1280, batch_size=256)
  config.unet.remat = 'none'
  lines = checked(config, 'v5e-4')
  assert 'does not fit' in lines['memory'].text and lines['batches'].ok


def test_the_command_ends_with_2_and_a_line_for_each(tmp_path):
  flags = ('--topology=v5p-8', '--config=configs/demo.py', f'--workdir={tmp_path}', '--image=i:1')
  done = runs.module('launch', 'check', *flags, '--config.mesh.fsdp=4', '--config.mesh.data=1')
  assert done.returncode == 2, done.stderr
  lines = done.stdout.splitlines()
  assert any(line.startswith('FAIL  workdir') for line in lines)
  assert any(line.startswith('ok    mesh') for line in lines) and 'Trace' not in done.stderr
