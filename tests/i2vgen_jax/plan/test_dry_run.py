"""A dry run says what a start would do, is refused as a start is, and leaves nothing behind."""

import os
import shlex

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from data_pipelines.corpus import lease
from i2vgen_jax.plan import chips, dry_run
from i2vgen_jax.process import config_flag, exit_codes
from tests import commands, mistakes, runs
from tests.test_mistakes import LOGGED, places  # noqa: F401  # A fixture.

COMPILED = []


def note(event, secs, fun_name='', **more):
  if event == commands.LOWERED and fun_name not in commands.KEYS:
    COMPILED.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(note)


@pytest.fixture
def dry(demo_corpus, tmp_path, capsys):
  """(workdir, fields of the config by name) -> what a dry run of the tiny config prints."""

  def run(workdir, fields=None, **options):
    source = f'tests/tiny.py:{demo_corpus}'
    config = config_flag.load(source)
    with config.unlocked():
      config.mesh = dict(data=1, fsdp=1, tensor=1) if 'topology' in options else config.mesh
      config.update_from_flattened_dict(fields or {})
    dry_run.dry_run(config, workdir, source, sheet=str(tmp_path / 'sheet.png'), **options)
    return capsys.readouterr().out

  return run


def files(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def test_a_new_run_is_described_and_its_first_batch_shown(dry, tmp_path):
  COMPILED.clear()
  text = dry(tmp_path / 'new', {'train.log_every': 7})
  assert 'train.log_every: 1 -> 7\n' in text and text.count(' -> ') == 1
  weights = 'vae: i2vgen_jax/demo/vae.safetensors (autoencoder of diffusers)'
  batches = 'videos: 48 examples in batches of 8', 'step 0, videos: 8 of 8 rows'
  for part in ('a new run', weights, *batches, 'in all'):
    assert part in text
  sheet = PIL.Image.open(tmp_path / 'sheet.png')
  assert sheet.height == 8 * (32 + 4) - 4 and np.asarray(sheet).std() > 10
  assert not COMPILED and not (tmp_path / 'new').exists()


def test_a_run_that_exists_is_gone_on_with_and_left_as_it_is(dry, finished_run):
  before = files(finished_run)
  text = dry(finished_run, {'train.num_steps': 9})
  assert 'goes on from step 6' in text and f'vae: {finished_run}/frozen' in text
  assert 'step 6, videos: 8 of 8 rows' in text
  assert files(finished_run) == before


def test_machines_that_are_not_here_are_planned_for(dry, tmp_path):
  text = dry(tmp_path / 'new', topology='v5e-1', price_per_chip_hour=2.0)
  assert 'M parameters on v5e-1' in text and 'price ' in text and 'of 15.75 GiB' in text
  text = dry(tmp_path / 'new', topology='gpu-1')
  assert 'planned for TPUs' in text and 'activations, 8 x videos' in text


def test_a_start_is_named_with_its_step(dry, finished_run, tmp_path):
  assert f'start      {finished_run}, step 6' in dry(
    tmp_path / 'new', {'start': str(finished_run), 'vae.weights': ''}
  )


def test_what_a_start_would_be_refused_for_is_refused(dry, finished_run, tmp_path):
  wrong, none = tmp_path / 'wrong.safetensors', tmp_path / 'none'
  safetensors.numpy.save_file({'encoder.conv_in.weight': np.zeros((8, 3, 1, 1), 'f')}, wrong)
  (none / 'checkpoints').mkdir(parents=True)
  (none / 'config.json').write_bytes((finished_run / 'config.json').read_bytes())
  for workdir, fields, message in (
    (tmp_path / 'new', {'vae.weights': str(wrong)}, f'vae from {wrong}'),
    (tmp_path / 'new', {'text_encoder.weights': ''}, 'text_encoder.weights is not set'),
    (tmp_path / 'new', {'start': str(none)}, 'holds no complete checkpoint'),
    (tmp_path / 'new', {'sample.sampler': 'euler', 'train.sample_every': 9}, "sampler='euler'"),
    (tmp_path / 'new', {'optimizer.kind': 'adam'}, "kind='adam'"),
    (finished_run, {'optimizer.b1': 0.5}, 'optimizer.b1: 0.9 -> 0.5'),
    (finished_run, {'data.index': '/nope'}, '/nope'),
  ):
    with pytest.raises((ValueError, OSError), match=message.replace('(', r'\(')):
      dry(workdir, fields)
  assert not (tmp_path / 'new').exists()


def test_a_workdir_in_which_another_run_trains_is_refused(dry, tmp_path):
  held = lease.Lease(tmp_path, lambda sentence: None, 'trains there.')
  try:
    with pytest.raises(ValueError, match=f'in use: process {os.getpid()} '):
      dry(tmp_path)
  finally:
    held.release()
  assert 'a new run' in dry(tmp_path)


def test_tpus_that_are_here_have_a_topology():
  class Chip:
    device_kind, slice_index = 'TPU v5', 0

    def __init__(self, process_index):
      self.process_index = process_index

  found = chips.here([Chip(number // 4) for number in range(8)])
  assert (found.devices, found.chips, found.hosts, found.kind) == (8, 8, 2, 'tpu')
  assert chips.device(found).kind == 'TPU v5'
  assert chips.here(jax.devices()) is None


@pytest.mark.slow
def test_a_dry_run_ends_as_the_start_would(places, tmp_path):  # noqa: F811
  """Of all mistakes with `train`: the same line; what would compile is done."""
  rows = {name: row for name, row in mistakes.ROWS.items() if 'i2vgen_jax.train ' in row.line}
  more = ['--dry_run', f'--sheet={tmp_path / "sheet.png"}']
  lines = {
    name: [*(word.format(**places) for word in shlex.split(row.line)), *more]
    for name, row in rows.items()
  }
  assert len(rows) > 60
  for name, (code, _, stderr) in runs.commands(lines, until_compilation=True).items():
    row = rows[name]
    assert code == (exit_codes.DONE if row.why else row.code), f'{name}: {stderr[-2000:]}'
    [*others, last] = [line for line in stderr.splitlines() if not LOGGED.match(line)] or ['']
    assert not others
    for text in row.says:
      assert text.format(**places) in last, name
  assert not places['new'].exists()
