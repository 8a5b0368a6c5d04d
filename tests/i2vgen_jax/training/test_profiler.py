"""Windows of steps that are profiled: one by the config, others when somebody asks."""

import jax
import jax.numpy as jnp
import pytest

from i2vgen_jax.training import profiler


@pytest.mark.parametrize(
  ('start', 'asked', 'traced'), [(2, [], [(2, 4)]), (0, [1, 2, 5], [(1, 3), (5, 7)])]
)
def test_windows_begin_at_their_step_and_end_after_so_many(
  start, asked, traced, monkeypatch, tmp_path
):
  """Who asks again within a window gets the one that is under way."""
  events, now = [], [0]
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda *_, **__: events.append(now[0]))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: events.append(now[0]))
  profile = profiler.Profile(tmp_path, start, 2, lambda: now[0] in asked)
  for step in range(10):
    now[0] = step
    profile.stop_at(step, jnp.zeros(1))
    profile.start_at(step)
  profile.close()
  assert list(zip(events[::2], events[1::2], strict=True)) == traced


def test_a_profile_that_is_asked_for_lies_in_the_workdir(tmp_path):
  profile = profiler.Profile(tmp_path, 0, 1, lambda: True)
  profile.start_at(3)
  profile.close(jax.jit(jnp.sin)(jnp.ones(3)))
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
