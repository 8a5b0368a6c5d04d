"""What is peeked at is what is trained on; what is measured is what is needed."""

import json
import re

import numpy as np
import PIL.Image
import pytest

from data_pipelines import __main__ as commands
from data_pipelines.stream import peek
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import data
from tests import corpora, tiny


def test_peek_shows_what_training_sees(demo_corpus, tmp_path, capsys):
  config = tiny.get_config(demo_corpus, images=True)
  run_config.write(tmp_path / 'run', config)
  arguments = [f'--workdir={tmp_path}/run', '--step=3', f'--output={tmp_path}/seen']
  commands.main(['peek', *arguments, '--dry_run'])
  dry = capsys.readouterr().out
  assert not (tmp_path / 'seen').exists() and 'nothing was decoded or written' in dry
  commands.main(['peek', *arguments])
  printed = capsys.readouterr().out
  lines = zip(dry.splitlines(), printed.splitlines(), strict=False)
  assert all(whole.startswith(told) for told, whole in list(lines)[:-1])
  session = session_lib.build(config)
  mesh = mesh_lib.make_mesh(config.mesh)
  stream = data.make_stream(session.on(mesh))
  batch = stream.batch_at(3)
  stream.close()
  seen = json.loads((tmp_path / 'seen/step-00000003.json').read_text())
  assert seen['fingerprint'] == stream.fingerprint and stream.fingerprint in printed
  assert seen['bucket']['name'] == stream.bucket_at(3).name
  captions = [example['caption'] for example in seen['examples']]
  np.testing.assert_array_equal(session.signals['text'].tokenize(captions), batch['token_ids'])
  assert [example['key'] for example in seen['examples']] == [
    example['key'] for example in stream.examples_at(3)
  ]
  assert all(example['key'] in printed for example in seen['examples'])
  sheet = np.asarray(PIL.Image.open(tmp_path / 'seen/step-00000003.png'))
  frames, height, width = batch['video'].shape[1:4]
  for row, video in enumerate(batch['video']):
    for column in range(frames):
      top, left = row * (height + peek.GAP), column * (width + peek.GAP)
      np.testing.assert_array_equal(sheet[top : top + height, left : left + width], video[column])


def test_peek_needs_a_run(tmp_path):
  with corpora.ends_with_2('holds no config.json: no run was started there'):
    commands.main(['peek', f'--workdir={tmp_path}', '--step=0', f'--output={tmp_path}'])


@pytest.mark.parametrize('media', ['video', 'image'])
def test_bench_multiplies_what_it_measures(demo_corpus, capsys, media):
  shape = ['--frames=4', '--height=32', '--width=32', '--num_batches=20', '--num_threads=1']
  arguments = [f'--corpus={demo_corpus / media}s', f'--media={media}', *shape]
  commands.main(['bench', *arguments, '--dry_run'])
  assert 'would decode 160 examples' in capsys.readouterr().out
  commands.main(['bench', *arguments, '--examples_per_sec=100'])
  printed = capsys.readouterr().out
  stream = float(re.search(r'stream: .* ([\d.]+) ms', printed)[1])
  needed = float(re.search(r'vCPUs for 100 examples/s: ([\d.]+)', printed)[1])
  assert 0.1 < stream < 50
  assert needed == pytest.approx(1.3 * 100 * stream / 1e3, abs=0.02)
  assert ('decoding alone' in printed) == (media == 'video')
