"""What is validated has the shape that the run has."""

import pytest

from configs import refine
from data_pipelines.corpus import buckets
from i2vgen_jax.training import validation


@pytest.mark.parametrize(
  'size, small',
  [
    ((720, 1280), (256, 448)),
    ((1280, 720), (448, 256)),
    ((880, 1056), (312, 368)),
  ],
)
def test_what_a_refinement_stage_refines_has_the_aspect_of_its_bucket(size, small):
  config = refine.get_config('aspects')
  found = {b.size: b for b in buckets.from_config(config)}
  given = config.refine.height, config.refine.width
  assert validation.small_size(*given, found[size]) == small
  plain = buckets.from_config(refine.get_config())[0]
  assert validation.small_size(256, 440, plain) == (256, 440)  # Without aspects as it is given.
