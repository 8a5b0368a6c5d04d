"""The ablation takes out one way of the image, and nothing else."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import demo, refine_demo
from i2vgen_jax import ablate
from i2vgen_jax import session as session_lib
from i2vgen_jax.process import exit_codes
from i2vgen_jax.sampling import stages
from tests import runs

VARIANTS = ('no global tokens', 'no CLIP', 'no detail latents')
KINDS = ('image_latent_tokens', 'image_tokens', 'image_latents')
COMMAND = ('i2vgen_jax.ablate', '--num_examples=2', '--steps=2')


def test_variants_are_the_run_s_config_without_one_line():
  config = demo.get_config()
  before = [line['kind'] for line in config.unet.conditioners]
  variants = ablate.variants_of(session_lib.build(config))
  for kind in variants.values():
    variant = ablate.without(config, kind)
    assert [line['kind'] for line in variant.unet.conditioners] == [k for k in before if k != kind]
    session_lib.build(variant)
  assert set(variants) == set(VARIANTS)
  assert [line['kind'] for line in config.unet.conditioners] == before


def test_a_model_of_text_alone_has_nothing_to_leave_out():
  with pytest.raises(ValueError, match="conditioners are \\['text'\\]"):
    ablate.variants_of(session_lib.build(refine_demo.get_config()))


def test_without_its_detail_latents_the_first_convolution_sees_the_noise_alone(finished_run):
  run = stages.load(finished_run)
  variant = ablate.take_out(run, 'image_latents', 0, finished_run)
  kernel = run.params['conv_in']['kernel']
  assert kernel.shape[2] == 8
  np.testing.assert_array_equal(variant.params['conv_in']['kernel'], kernel[:, :, :4])
  assert set(run.params) - set(variant.params) == {'image_latents'}
  for name in set(variant.params) - {'conv_in'}:
    jax.tree.map(np.testing.assert_array_equal, variant.params[name], run.params[name])


@pytest.mark.slow
def test_a_trained_ablation_that_is_stopped_goes_on(finished_run, tmp_path):
  """SIGTERM to the second variant's training: the command ends as `train` does, and so starts."""
  log = tmp_path / 'log'
  flags = [f'--workdir={finished_run}', f'--output={tmp_path / "out"}', '--train']
  with log.open('w') as file:
    first = subprocess.Popen(
      [sys.executable, '-m', *COMMAND, *flags], cwd=runs.ROOT, env=runs.environment(), stderr=file
    )
  second = pathlib.Path(tmp_path / 'out', KINDS[1], 'metrics.jsonl')
  while not second.exists() and first.poll() is None:
    time.sleep(0.05)
  first.terminate()
  assert first.wait(300) == exit_codes.PREEMPTED, log.read_text()[-3000:]
  assert not (tmp_path / 'out' / 'report.json').exists()
  assert not (tmp_path / 'out' / KINDS[2]).exists()
  stderr = check_command(finished_run, tmp_path / 'out', True)
  assert 'Resuming at step' in stderr


@pytest.mark.slow
def test_the_command_writes_table_and_sheet(finished_run, tmp_path):
  check_command(finished_run, tmp_path / 'out', False)


def check_command(finished_run, output, train):
  """Runs it to its end and looks at what it wrote; returns its log."""
  flags = [f'--workdir={finished_run}', f'--output={output}', f'--train={train}']
  done = runs.module(*COMMAND, *flags)
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((output / 'report.json').read_text())
  assert report['variants'].startswith('trained' if train else 'conditioner taken out')
  columns = (output / 'table.md').read_text().splitlines()[0]
  assert columns == '| | real | all conditions | no global tokens | no CLIP | no detail latents |'
  values = [report[name]['psnr_db']['mean'] for name in ('all conditions', *VARIANTS)]
  assert len(set(values)) == 4
  assert len(list((output / 'videos').glob('*/*.mp4'))) == 10
  assert all((output / kind / 'checkpoints').exists() == train for kind in KINDS)
  return done.stderr
