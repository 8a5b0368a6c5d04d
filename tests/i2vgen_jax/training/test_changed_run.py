"""A run whose batches change in size on the way, as a user would change them."""

import json

import pytest

from data_pipelines import __main__ as commands
from i2vgen_jax import replay, train
from i2vgen_jax.stored import trees
from tests import tiny


@pytest.mark.slow
def test_a_run_draws_each_video_once_though_its_batches_grow(demo_corpus, tmp_path, capsys):
  """2 steps of 8, then 2 of 16 in two starts: the 48 videos of the corpus. And it knows which."""
  config = tiny.get_config(demo_corpus)
  config.checkpoint.update(every=1, keep_every=1)
  config.train.stop_at = 2
  assert train.train(config, tmp_path) == 0
  config.data.buckets.videos.batch_size = 16
  with pytest.raises(ValueError, match=r'batch_size: 8 -> 16.*--config.data.accept_changed=True'):
    train.train(config, tmp_path)
  config.data.accept_changed = True
  for stop_at in (3, 4):
    config.train.stop_at = stop_at
    assert train.train(config, tmp_path) == 0
  positions = [trees.stored(tmp_path / f'checkpoints/{k}', k).data for k in (1, 2, 3, 4)]
  fingerprints = [position['fingerprint'] for position in positions]
  assert fingerprints[0] == fingerprints[1] != fingerprints[2] == fingerprints[3]
  assert [position['origin']['change'][:8] for position in positions] == ['', '', *['00000002'] * 2]

  drawn = []
  for step in range(4):
    commands.main(
      ['peek', f'--workdir={tmp_path}', f'--step={step}', f'--output={tmp_path}', '--dry_run']
    )
    drawn.append({line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]})
  assert [len(keys) for keys in drawn] == [8, 8, 16, 16] and len(set.union(*drawn)) == 48
  wanted = [sorted(drawn[1])[0], sorted(drawn[2])[0]]
  commands.main(
    ['seen', f'--workdir={tmp_path}', f'--output={tmp_path}/seen.jsonl', '--until=4',
     f'--where=key in {tuple(wanted)}'],
  )  # fmt: skip
  found = [json.loads(line) for line in (tmp_path / 'seen.jsonl').read_text().splitlines()]
  assert [(each['step'], each['keys']) for each in found] == [(1, wanted[:1]), (2, wanted[1:])]

  for step in (1, 2, 3):  # Before, at and after the change; raises if a bit differs.
    replay.replay(tmp_path, step)
