"""The engine that a command's flags ask for."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from data_pipelines.engines import beam, local, outcomes, ray

ENGINES = ('local', 'ray', 'beam')


class Engine(Protocol):
  """Runs the work: local.Local, ray.Ray or beam.Beam."""

  def run(
    self,
    work: outcomes.Work,
    todo: Sequence[tuple[int, Any]],
    num_processes: int,
  ) -> None:
    """Calls work(index, item) of all that is to do, in as many processes if they are here."""


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of an engine to a command's; `given` reads them."""
  parser.add_argument(
    '--num_processes', type=at_least_one, default=2,
    help='on this machine; 1 works in this process',
  )  # fmt: skip
  parser.add_argument(
    '--engine', choices=ENGINES,
    help='where shards are worked on; default: local, processes of this machine, or beam with its '
    'flags',
  )  # fmt: skip
  parser.add_argument(
    '--ray_address', default='', metavar='HOST:PORT',
    help='of a Ray cluster that runs, or auto; left out, one is started on this machine',
  )  # fmt: skip
  parser.add_argument(
    '--ray_resources', default='', metavar='NAME=NUMBER,...',
    help='what each worker of Ray takes, such as CPU=1,memory=2e9; default: CPU=1',
  )  # fmt: skip
  parser.add_argument(
    'beam_flags', nargs='*', metavar='-- BEAM_FLAGS', help="Beam's, as -- --runner=DataflowRunner"
  )


def given(options: dict[str, Any]) -> dict[str, Any]:
  """The options of a command, with the engine in the place of the flags that say which."""
  name, flags = options.pop('engine'), options.pop('beam_flags')
  address, resources = options.pop('ray_address'), options.pop('ray_resources')
  return options | dict(engine=engine_of(name, address, resources, beam_flags=flags))


def engine_of(
  name: str | None,
  ray_address: str = '',
  ray_resources: str = '',
  num_actors: int | None = None,
  beam_flags: Sequence[str] = (),
) -> Engine:
  """The engine that flags ask for.

  Args:
    name: one of ENGINES; None is beam if it has flags, else local.
    ray_address: of ray.Ray.
    ray_resources: likewise, as NAME=NUMBER,...
    num_actors: likewise.
    beam_flags: of beam.Beam.
  Raises:
    ValueError: flags of an engine that is not asked for, or resources that are none.
  """
  name = name or ('beam' if beam_flags else 'local')
  if beam_flags and name != 'beam':
    raise ValueError(f'--engine={name} takes no flags of Beam: leave out -- {" ".join(beam_flags)}')
  if (ray_address or ray_resources) and name != 'ray':
    raise ValueError(f'--ray_address and --ray_resources need --engine=ray, not {name}.')
  if name == 'ray':
    return ray.Ray(ray_address, _resources(ray_resources), num_actors)
  return beam.Beam(tuple(beam_flags)) if name == 'beam' else local.Local()


def _resources(text: str) -> Mapping[str, float]:
  found = {}
  for pair in filter(None, text.split(',')):
    name, _, number = pair.partition('=')
    try:
      found[name] = float(number)
    except ValueError:
      found[name] = 0.0
    if not name or not 0 < found[name] < float('inf'):
      raise ValueError(f'--ray_resources={text} should be as CPU=1,GPU=1: {pair!r} is not.')
  return found or dict(CPU=1.0)


def at_least_one(text: str) -> int:
  """The number of a flag that counts what there must be one of."""
  if int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text} must be at least 1')
  return int(text)
