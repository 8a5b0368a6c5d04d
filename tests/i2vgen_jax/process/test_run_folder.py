"""What a run leaves in its workdir, read without JAX."""

from i2vgen_jax.process import run_folder


def test_steps_that_were_taken_back_do_not_stand():
  first = [dict(step=step, loss=step / 10) for step in (10, 20, 30)]
  second = [dict(step=step, loss=step / 100) for step in (20, 30, 40)]
  marks = [{'step': 10, run_folder.RESUMED: True}, {'step': 40, run_folder.RESUMED: True}]
  rows = [*first, marks[0], *second, marks[1], dict(step=50)]
  assert run_folder.standing(rows) == [first[0], *second, dict(step=50)]
