"""What benchmarks/fuzz_media does to media, and that nothing dies of it."""

import itertools
import os

from benchmarks import fuzz_media


def test_mutants_of_every_seed_are_decoded_or_refused_and_nothing_dies():
  files = fuzz_media.seeds()
  assert len(files) >= 20
  assert os.sched_getscheduler(0) == os.SCHED_OTHER  # Not as SVT-AV1 leaves it to a superuser.
  found = fuzz_media.fuzz(files, seconds=60, seed=3, most=2 * len(files))
  assert found.reasons.total() == 2 * len(files) and not found.faults, found.text()
  assert 0 < found.reasons['sound'] < found.reasons.total()  # Some are hurt, and some are not.
  assert 'FAULT' not in found.text()


def test_mutants_repeat_by_their_seed_and_differ_from_what_they_are_made_of():
  files = {'a': (bytes(range(256)) * 8, 'video'), 'b': (b'ftypmoov' * 99, 'image')}
  first, again, other = (
    list(itertools.islice(fuzz_media.mutants(files, seed), 40)) for seed in (1, 1, 2)
  )
  assert first == again != other
  assert sum(data != files[name][0] for name, data, _ in first) > 35
