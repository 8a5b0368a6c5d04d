"""The run as a whole: what it leaves, the same losses in micro-batches, and errors before anything
compiles."""

import json

import numpy as np
import pytest

from configs import base
from i2vgen_jax import train
from i2vgen_jax.models import lora
from i2vgen_jax.stored import checkpoint
from tests import runs, tiny
from tests.i2vgen_jax.training import test_writer


@pytest.mark.slow  # Its fast form is in training/test_step.py.
@pytest.mark.parametrize(
  ('mesh', 'accumulation'),
  [
    (dict(slice=2, data=1, fsdp=1, tensor=4), 4),
    (dict(data=2, fsdp=2, context=2, tensor=1), 2),  # A video for every two devices.
  ],
)
def test_micro_batches_give_the_losses_of_one(
  mesh, accumulation, finished_run, demo_corpus, tmp_path
):
  config = tiny.get_config(demo_corpus)
  config.mesh = mesh
  config.train.accumulation = accumulation
  config.train.num_steps = 6
  assert train.train(config, tmp_path) == 0
  expected, found = runs.losses(finished_run), runs.losses(tmp_path)
  np.testing.assert_allclose(
    [found[step] for step in range(1, 7)], [expected[step] for step in range(1, 7)], rtol=1e-5
  )


def test_workdir_of_another_config_says_what_differs(own_run, demo_corpus):
  config = tiny.get_config(demo_corpus)
  config.optimizer.peak_learning_rate = 0.5
  config.unet.head_dim = 16
  config.train.log_every = 7  # May change.
  with pytest.raises(ValueError, match='another config') as raised:
    train.train(config, own_run)
  assert 'optimizer.peak_learning_rate: 0.002 -> 0.5' in str(raised.value)
  assert 'unet.head_dim: 8 -> 16' in str(raised.value)
  assert 'log_every' not in str(raised.value)


def test_every_run_leaves_what_people_look_at(demo_corpus, tmp_path):
  config = tiny.get_config(demo_corpus, num_steps=2)
  config.train.update(eval_every=2, sample_every=2, tensorboard=True)
  config.train.update(profile_at=1, profile_steps=1)
  assert train.train(config, tmp_path) == 0
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').open()]
  assert any('eval_loss' in row for row in rows)
  assert {'loss', 'grad_norm', 'learning_rate', 'steps_per_sec'} <= set(rows[0])
  assert {'step_secs', 'samples_per_sec', 'tflops_per_device', 'goodput'} <= set(rows[0])
  assert 'job_end_time' in (tmp_path / 'goodput.jsonl').read_text().splitlines()[-1]
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert 'Total' in (tmp_path / 'parameters.txt').read_text()
  assert json.loads((tmp_path / 'config.json').read_text())['unet']['head_dim'] == 8
  samples = sorted(path.name for path in (tmp_path / 'samples' / '00000002').iterdir())
  assert samples == [
    '00.mp4', '00.png', '00.txt', '00_real.mp4', '01.mp4', '01.png', '01.txt', '01_real.mp4',
    'contact_sheet.png',
  ]  # fmt: skip
  found = test_writer.shown(tmp_path)
  assert {'loss/all', 'loss/videos', 'eval/loss', 'speed/steps_per_sec', 'samples/00'} <= set(found)
  texts = [value.tensor.string_val[0].decode() for tag, value in found.items() if 'run/' in tag]
  assert len(texts) == 2 and '"head_dim": 8' in ''.join(texts)
  assert '| conv_in/kernel' in ''.join(texts)


def test_a_run_says_how_many_of_its_parameters_learn(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(train.logging, 'info', lambda text, *values: said.append(text % values))
  config = base.get_config()
  params = {name: {'kernel': np.zeros((2, 3))} for name in ('a', 'b', lora.KEY)}
  for groups, rank, learns in (((), 0, 18), ((dict(match='^a', freeze=True),), 0, 12), ((), 4, 6)):
    config.optimizer.groups, config.lora.rank = groups, rank
    train.write_overview(tmp_path, config, params)
    assert said.pop().startswith(f'18 parameters, of which {learns} learn (table: ')


@pytest.mark.slow
def test_twenty_steps_on_videos_of_two_codecs_and_three_sizes(media_folder, tmp_path):
  from data_pipelines.ingest import command as ingest

  ingest.ingest(str(media_folder / 'videos'), str(tmp_path / 'corpus' / 'videos'), num_processes=1)
  config = tiny.get_config(tmp_path / 'corpus', num_steps=20)
  config.train.log_every = 20
  config.checkpoint.every = 20
  assert train.train(config, tmp_path / 'run') == 0
  assert np.isfinite(list(runs.losses(tmp_path / 'run').values())).all()
  assert checkpoint.latest_step(tmp_path / 'run' / 'checkpoints') == 20


def _change(**changes):
  def apply(config):
    for name, value in changes.items():
      config.update_from_flattened_dict({name.replace('__', '.'): value})

  return apply


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (_change(mesh__data=3), 'mesh=.* needs 3 devices, but there are 8'),
    (_change(mesh__fsdp=0), 'sizes are positive'),
    (_change(data__buckets__videos__batch_size=12), 'batch_size=12 must be a multiple of 8'),
    (_change(train__accumulation=3), 'must be a multiple of 24'),
    (_change(data__buckets__videos__frames=0), 'frames=0'),
    (_change(data__buckets__videos__height=30), 'height=30'),
    (_change(data__buckets__videos__frames=400), 'fits none of'),
    (_change(unet__head_dim=7), 'head_dim=7'),
    (_change(unet__context_dim=32), 'unet.context_dim=32 must equal'),
    (_change(text_encoder__model__vocab_size=99), 'they do not belong together'),
    (_change(tokenizer='nowhere'), "tokenizer='nowhere'"),
    (_change(vae__weights=''), 'vae.weights is not set'),
    (_change(vae__weights='nowhere.safetensors'), 'nowhere.safetensors'),
    (_change(schedule__kind='linear'), "schedule.kind='linear' is unknown"),
    (_change(loss__prediction_type='eps'), "use 'v'"),
    (_change(optimizer__groups=(dict(match='no_such_layer'),)), "match='no_such_layer' fits no"),
    (_change(optimizer__schedule='step'), "optimizer.schedule='step' is unknown"),
    (_change(sample__bucket='nothing'), "sample.bucket='nothing' is unknown"),
    (_change(sample__num_steps=5000), 'num_steps=5000'),
    (_change(sample__num_steps=1), "num_steps=1, spaced 'leading', starts at timestep 1 of 1000"),
    (_change(sample__guidance_scale=float('nan')), 'sample.guidance_scale=nan must lie in'),
    (_change(optimizer__peak_learning_rate=-1e-4), 'peak_learning_rate=-0.0001 must lie in'),
    (_change(optimizer__groups=(dict(match='conv', lr=-1.0),)), 'lr=-1.0 of .* must lie in'),
    (_change(data__directories__videos='/nowhere'), '/nowhere'),
  ],
)
def test_mistakes_are_named_before_anything_compiles(change, message, demo_corpus, tmp_path):
  config = tiny.get_config(demo_corpus)
  config.mesh = dict(data=8, fsdp=1, tensor=1)
  config.train.sample_every = 100
  change(config)
  with pytest.raises(ValueError, match=message):
    train.train(config, tmp_path)
  assert not (tmp_path / 'checkpoints').exists()


def test_unwritable_workdir_is_an_error(demo_corpus, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='not writable'):
    train.train(tiny.get_config(demo_corpus), tmp_path / 'file' / 'run')


def test_typos_in_fields_and_in_arguments_of_a_config_name_what_there_is_and_exit_2():
  typos = {
    'peak_learning_rate': ['--config=configs/demo.py', '--config.optimizer.peak_learning_rat=1'],
    'known: corpus, steps': ['--config=configs/demo.py:stpes=3'],
  }
  train_it = ['i2vgen_jax.train', '--workdir=/tmp/unused']
  done = runs.commands({known: [*train_it, *flags] for known, flags in typos.items()})
  for known, (code, _, stderr) in done.items():
    assert code == 2 and known in stderr and 'Traceback' not in stderr, stderr
