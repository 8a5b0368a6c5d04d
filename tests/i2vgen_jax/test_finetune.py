"""One command from clips and weights to an adapter: which commands it runs, and what they make."""

import importlib

import pytest

from i2vgen_jax import finetune

FLAGS = dict(
  full=False, part='', index='', steps=0, pixels=0, set=[], model='configs/base.py',
  vae='', text_encoder='', image_encoder='', tokenizer='',
)  # fmt: skip


@pytest.fixture
def given(tmp_path):
  (tmp_path / 'clips').mkdir()
  for name, inside in (('pipeline', 'model_index.json'), ('loaded', 'params'), ('empty', 'x')):
    (tmp_path / name).mkdir()
    (tmp_path / name / inside).touch()
  (tmp_path / 'unet.pth').touch()

  def make(weights, **more):
    paths = dict(weights=weights, videos='clips', output='out')
    return FLAGS | {name: str(tmp_path / path) for name, path in paths.items()} | more

  return make


def modules(lines):
  return [line[2] for line in lines]


def test_a_pipeline_is_loaded_once_and_a_run_is_taken_as_it_is(given, tmp_path):
  flags = given('pipeline')
  start = finetune.find_start(flags)
  lines = finetune.before_training(flags, start)
  assert modules(lines) == ['data_pipelines', 'i2vgen_jax.load']
  assert f'--pipeline={tmp_path / "pipeline"}' in lines[1] and f'--output={start}' in lines[1]
  (start / 'params').mkdir(parents=True)
  assert modules(finetune.before_training(flags, start)) == ['data_pipelines']
  assert finetune.find_start(given('loaded')) == tmp_path / 'loaded'
  assert modules(finetune.before_training(given('loaded'), tmp_path / 'loaded')) == [
    'data_pipelines'
  ]


def test_a_u_net_alone_comes_with_its_networks(given):
  with pytest.raises(ValueError, match='U-Net alone: .*--text_encoder, --image_encoder, --tok'):
    finetune.find_start(given('unet.pth', vae='v'))
  parts = dict(vae='v', text_encoder='t', image_encoder='i', tokenizer='k')
  flags = given('unet.pth', **parts)
  _, line = finetune.before_training(flags, finetune.find_start(flags))
  assert f'--unet={flags["weights"]}' in line
  assert {f'--{name}={value}' for name, value in parts.items()} <= set(line)


def test_what_is_asked_for_reaches_training_and_what_is_there_is_exported_once(given, tmp_path):
  flags = given('loaded', steps=70, full=True, set=['train.log_every=5'])
  line = finetune.training(flags, finetune.find_start(flags), 8)
  [config] = [part for part in line if part.startswith('--config=')]
  assert {'devices=8', 'full=1', 'steps=70'} <= set(config.split(':')[1].split(','))
  assert line[-1] == '--config.train.log_every=5'
  assert [line[-2] for line in finetune.exports(flags)] == ['--format=diffusers']
  flags = given('loaded')
  assert [line[-2] for line in finetune.exports(flags)] == ['--format=peft', '--format=diffusers']
  assert [line[-2] for line in finetune.exports(flags, False)] == ['--format=torch']
  (tmp_path / 'out' / 'adapter').mkdir(parents=True)
  assert [line[-2] for line in finetune.exports(flags)] == ['--format=diffusers']


@pytest.mark.parametrize('config, fits', [('demo', True), ('scenes', False)])
def test_a_model_with_other_conditions_than_the_release_s_fits_no_diffusers(config, fits, tmp_path):
  found = importlib.import_module(f'configs.{config}').get_config()
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').write_text(found.to_json())
  assert finetune.fits_diffusers(tmp_path) == fits


def test_a_signal_is_for_the_command_that_runs():
  code = 'import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)'
  assert finetune.run([finetune.sys.executable, '-c', code]) == -15


def test_a_pipeline_of_another_model_names_the_flag_that_says_which(given, tmp_path):
  (tmp_path / 'pipeline' / 'text_encoder').mkdir()
  (tmp_path / 'pipeline' / 'text_encoder' / 'config.json').write_text('{"vocab_size": 856}')
  with pytest.raises(ValueError, match='says vocab_size=856, .*49408.*: give .*--model=configs/de'):
    finetune.find_start(given('pipeline'))
  finetune.find_start(given('pipeline', model='configs/demo.py'))


@pytest.mark.parametrize(
  'weights, more, message',
  [
    ('nowhere', {}, 'nowhere does not exist'),
    ('empty', {}, 'no diffusers folder'),
    ('loaded', dict(set=['rank']), '--set=rank must be FIELD=VALUE'),
    ('loaded', dict(output='a,b'), 'has a comma'),
    ('loaded', dict(output='OUT'), 'is a file'),
  ],
)
def test_mistakes_are_named_before_anything_starts(given, weights, more, message, tmp_path):
  if more.get('output') == 'OUT':
    more = dict(output=str(tmp_path / 'unet.pth'))
  with pytest.raises(ValueError, match=message):
    finetune.find_start(given(weights, **more))
