"""A job describes what to run, on any target; a plan is what a target makes of it."""

import dataclasses
import re
import shlex

from i2vgen_jax.parallel import topology

GRACE_SECS = 180  # From a preemption's SIGTERM to SIGKILL: the time to save.
SECRET = re.compile(
  r'(?i)(secret|password|passwd|(api|access|private)_?key|(?<![a-z])token(?!iz|s))[\w.]*='
  r'|\bhf_\w{20}|\bAKIA\w{16}|\bgh[pousr]_\w{20}|\bya29\.|-----BEGIN'
)


@dataclasses.dataclass(frozen=True)
class Job:
  """One run on one topology.

  Attributes:
    name: of the run, as Kubernetes and gcloud allow: a-z, 0-9 and -.
    topology: from topology.parse.
    training: flags of i2vgen_jax.train: --config, its overrides, --workdir.
    zone, project, cluster, queue, image, partition: of the cloud or cluster; '' where not needed.
    provision: 'on-demand', 'spot' or 'reserved'.
    secret: name of a Kubernetes secret whose entries become environment variables.
    max_restarts: of a run that fails; preemptions do not count where the target can tell.
  """

  name: str
  topology: topology.Topology
  training: tuple[str, ...]
  zone: str = ''
  project: str = ''
  cluster: str = ''
  queue: str = ''
  image: str = ''
  partition: str = ''
  provision: str = 'on-demand'
  secret: str = ''
  max_restarts: int = 10

  def __post_init__(self) -> None:
    if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', self.name):
      raise ValueError(
        f'name={self.name!r}: at most 40 of a-z, 0-9 and -, beginning with a letter.'
      )
    for flag in self.training:
      if SECRET.search(flag):
        raise ValueError(
          f'{flag.partition("=")[0]} looks like a secret, and would be seen in process lists, '
          'manifests and logs. Put it into the environment of the hosts, or into a Kubernetes '
          'secret and name that by --secret.'
        )

  @property
  def command(self) -> tuple[str, ...]:
    """The command of a process, the same on every host."""
    distributed = (
      ('--distributed',) if self.topology.hosts > 1 or self.topology.kind == 'tpu' else ()
    )
    return ('python', '-m', 'i2vgen_jax.train', *distributed, *self.training)

  @property
  def environment(self) -> dict[str, str]:
    """Variables of every process."""
    return {'PYTHONUNBUFFERED': '1', 'PYTHONFAULTHANDLER': '1'}

  def require(self, *names: str) -> None:
    """Raises ValueError if a field that the target needs is empty."""
    for name in names:
      if not getattr(self, name):
        raise ValueError(f'this target needs --{name}.')

  def require_kind(self, *kinds: str) -> None:
    """Raises ValueError if the topology is of another kind than the target runs on."""
    if self.topology.kind not in kinds:
      raise ValueError(
        f'topology={self.topology.name}: this target runs on {" or ".join(kinds)}, not on '
        f'{self.topology.kind}.'
      )


@dataclasses.dataclass(frozen=True)
class Plan:
  """The files and commands by which a target runs a job.

  Attributes:
    files: name -> text, written before the commands run.
    commands: argument lists, one after the other, in the folder of the files.
  """

  files: dict[str, str]
  commands: tuple[tuple[str, ...], ...]

  def show(self) -> str:
    """The files and commands as text for the user."""
    parts = [f'# ---- {name}\n{text}' for name, text in self.files.items()]
    return '\n'.join([*parts, '# ---- commands', *map(shlex.join, self.commands)])
