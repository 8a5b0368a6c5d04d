"""The steps that drew what must not be used any more are found, all of them."""

import json
import pathlib
import shutil

import pytest

from data_pipelines import __main__ as commands
from data_pipelines.corpus import reader, storage
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import data
from tests import corpora, tiny


@pytest.fixture
def run(demo_corpus, tmp_path):
  """(its folder, its config) of a run on images and videos."""
  corpus = pathlib.Path(shutil.copytree(demo_corpus, tmp_path / 'corpus'))
  config = tiny.get_config(corpus, images=True)
  run_config.write(tmp_path / 'run', config)
  return tmp_path / 'run', config


def test_all_steps_that_drew_a_row_are_listed(run, tmp_path, capsys):
  workdir, config = run
  command = ['seen', f'--workdir={workdir}', f'--output={tmp_path}/seen.jsonl', '--until=40']
  session = session_lib.build(config)
  stream = data.make_stream(session.on(mesh_lib.make_mesh(config.mesh)))
  drawn = {step: {example['key'] for example in stream.examples_at(step)} for step in range(40)}
  stream.close()
  wanted = sorted(drawn[5])[0], sorted(drawn[7])[-1]
  commands.main([*command, f'--where=key in {wanted}'])
  found = [json.loads(line) for line in (tmp_path / 'seen.jsonl').read_text().splitlines()]
  assert {each['step']: set(each['keys']) for each in found} == {
    step: keys & set(wanted) for step, keys in drawn.items() if keys & set(wanted)
  }
  assert f'{len(found)} of 40 steps drew 2 of the 2 rows' in capsys.readouterr().out
  commands.main([*command, '--where=false', '--dry_run'])
  assert '0 rows to look for in 40 steps' in capsys.readouterr().out


def test_a_name_that_a_list_gets_later_is_found_with_its_steps(run, tmp_path, capsys):
  workdir, config = run
  images = config.data.directories.images
  rows = storage.read_table(reader.Corpora(images, 'train').sidecars[0]).to_pylist()
  (tmp_path / 'denied.txt').write_text(rows[3]['sha256'] + '\n')
  command = ['seen', f'--workdir={workdir}', f'--output={tmp_path}/seen.jsonl', '--until=200']
  with corpora.ends_with_2('no corpus is curated'):
    commands.main(command)
  commands.main(
    [
      'curate', f'--corpus={images}', f'--denylist={tmp_path}/denied.txt', '--min_short_side=16',
      '--keep_duplicates', '--num_processes=1',
    ]
  )  # fmt: skip
  commands.main(command)
  found = [json.loads(line) for line in (tmp_path / 'seen.jsonl').read_text().splitlines()]
  assert found and all(each['bucket'] == 'images' for each in found)
  assert rows[3]['key'] in {key for each in found for key in each['keys']}


def test_conditions_and_folders_that_are_none(run, tmp_path):
  workdir, _ = run
  output = f'--output={tmp_path}/seen.jsonl'
  with corpora.ends_with_2('holds no config.json'):
    commands.main(['seen', f'--workdir={tmp_path}', output])
  with corpora.ends_with_2('--where cannot be understood'):
    commands.main(['seen', f'--workdir={workdir}', output, '--where=no_column = 1'])
