"""A short form of benchmarks/mutate_checkpoints, one mutation of each kind."""

import collections

from benchmarks import mutate_checkpoints


def test_no_damage_is_silent_and_none_hides_a_good_step(tmp_path):
  source = mutate_checkpoints.save(tmp_path / 'source')
  number = len(mutate_checkpoints.FILE_KINDS) + len(mutate_checkpoints.FOLDER_KINDS)
  found = list(mutate_checkpoints.mutate(source, tmp_path / 'work', seed=5, number=number))
  outcomes = collections.Counter(outcome for _, outcome in found)
  assert set(outcomes) == {'harmless', 'fell back'}, found
  assert outcomes['fell back'] > number // 2
