"""What is validated has the shape that the run has, and is nothing where nothing is asked for."""

import pytest

from configs import refine
from data_pipelines.corpus import buckets
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.training import validation
from tests import tiny


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


def test_no_clips_are_no_validation(demo_corpus, tmp_path):
  config = tiny.get_config(demo_corpus)
  config.train.update(eval_every=1, sample_every=1, num_eval_examples=0, num_sample_videos=0)
  config.data.directories = dict(videos='/nowhere')  # Nothing is read.
  session = session_lib.build(config).on(mesh_lib.make_mesh(config.mesh))
  nothing = validation.Validation(session, session.sample_bucket())
  assert nothing.lower(None, None) == {}
  assert not nothing.run(1, None, None, None, tmp_path, at_end=True)
