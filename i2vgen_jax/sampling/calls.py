"""The network calls that make a video, as tables of samplers."""

from typing import NamedTuple

from i2vgen_jax import session as session_lib
from i2vgen_jax.diffusion import sampler as samplers
from i2vgen_jax.diffusion import schedule as schedule_lib

# Of generate.settings, what the calls depend on.
SETTINGS = (
  'num_steps', 'sampler', 'spacing', 'schedule', 'eta', 'set_alpha_to_one', 'levels',
  'inversion_steps',
)  # fmt: skip


class Tables(NamedTuple):
  """The network calls of a video.

  Attributes:
    schedule: of the noise, to sample on.
    table: of samplers.make_table.
    inversion: of samplers.inversion_table, whose calls come first; None without.
  """

  schedule: schedule_lib.NoiseSchedule
  table: samplers.Table
  inversion: samplers.Table | None

  @property
  def num_calls(self) -> int:
    """In all."""
    return sum(len(table['timestep']) for table in (self.table, self.inversion) if table)


def tables(
  session: session_lib.Session,
  *,
  num_steps: int,
  sampler: str,
  spacing: str,
  schedule: str,
  eta: float,
  set_alpha_to_one: bool,
  levels: int,
  inversion_steps: int,
) -> Tables:
  """The network calls of settings, which are as of generate.make_generate.

  Raises:
    ValueError: settings that are unknown or do not fit the schedule.
  """
  trained = session.schedule
  sampled = trained.like(schedule) if schedule else trained
  table = samplers.make_table(
    sampled, num_steps, kind=sampler, spacing=spacing, levels=levels or None, eta=eta,
    set_alpha_to_one=set_alpha_to_one,
  )  # fmt: skip
  inversion = None
  if inversion_steps:
    inversion = samplers.inversion_table(trained, inversion_steps, levels)
  return Tables(sampled, table, inversion)
