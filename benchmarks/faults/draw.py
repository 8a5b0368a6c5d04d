"""Which fault happens to which process of a run, and when."""

import dataclasses
import json
import random

# What happens; `inject.py` says how.
KINDS = ('kill', 'stall', 'term', 'stop', '503', 'enospc', 'flip', 'nan', 'crash')
MOMENTS = ('start', 'compile', 'step', 'save', 'barrier', 'validation')
# A run: a save every other step, a validation every third.
NUM_STEPS, SAVE_EVERY, EVAL_EVERY = 6, 2, 3
NAN_STEP = 3  # The batch that is broken, also when it comes again.
VISITS = {
  'step': NUM_STEPS,
  'save': NUM_STEPS // SAVE_EVERY,
  'barrier': 3,  # At the start, when all have compiled, and at the end.
  'validation': NUM_STEPS // EVAL_EVERY,
}
# What only some moments have: batches are read ahead of all steps, only saves fill a disk, and bits
# can flip once something is saved.
ONLY = {
  '503': ('start', 'compile'),
  'enospc': ('save',),
  'flip': ('save', 'barrier', 'validation'),
  'nan': ('step', 'save', 'barrier', 'validation'),
}


@dataclasses.dataclass(frozen=True)
class Fault:
  """One fault of one run.

  Attributes:
    kind: of KINDS.
    processes: of the run.
    host: which of them it happens to.
    moment: of MOMENTS.
    visit: the how-manieth time that the process comes there, from 1.
    delay: seconds after coming there; what a process does to itself happens at once.
    seed: of what else is random.
  """

  kind: str
  processes: int
  host: int
  moment: str
  visit: int
  delay: float
  seed: int

  def __str__(self) -> str:
    return (
      f'{self.kind:6} process {self.host} of {self.processes}, {self.moment} {self.visit} '
      f'+ {self.delay:.2f} s'
    )

  def to_json(self) -> str:
    """Read again by `from_json`."""
    return json.dumps(dataclasses.asdict(self))


def from_json(text: str) -> Fault:
  """What `to_json` wrote."""
  return Fault(**json.loads(text))


def faults(seed: int, count: int, processes: tuple[int, ...]) -> list[Fault]:
  """The first `count` faults of a seed: all kinds and moments in turn, all else at random."""
  rng = random.Random(seed)
  found = []
  for number in range(count):
    kind = KINDS[number % len(KINDS)]
    moment = rng.choice(ONLY.get(kind, MOMENTS))
    visits = VISITS.get(moment, 1)
    num_processes = processes[number // len(KINDS) % len(processes)]
    fault = Fault(
      kind,
      num_processes,
      rng.randrange(num_processes),
      moment,
      rng.randint(visits if kind == 'flip' else 1, visits),
      rng.random(),
      rng.getrandbits(32),
    )
    found.append(fault)
  return found
