"""A job describes what to run, on any target; a plan is what a target makes of it."""

import dataclasses
import pathlib
import re
import shlex
import unicodedata

from data_pipelines.corpus import storage
from i2vgen_jax.parallel import topology

# Linux takes no longer argument; systemd and sbatch take fewer in all.
MAX_FLAG_BYTES = 100_000
# Names of clouds and clusters: safe as a word of any shell, and never a flag of a command.
NAME = re.compile(r'[A-Za-z0-9_][\w.:/@,+-]{0,253}', re.ASCII)
# Control characters and line breaks, of which quoting protects nowhere; halves of characters and
# what is none, which UTF-8 does not write.
UNSAFE = {'Cc', 'Zl', 'Zp', 'Cs', 'Cn'}
GRACE_SECS = 180  # From a preemption's SIGTERM to SIGKILL: the time to save.
SECRET = re.compile(
  r'(?i)(secret|password|passwd|(api|access|private)_?key|(?<![a-z])token(?!iz|s))[\w.]*='
  r'|\bhf_\w{20}|\bAKIA\w{16}|\bgh[pousr]_\w{20}|\bya29\.|-----BEGIN'
)


# Fields of a Job that name something of a cloud or cluster; each is a flag.
PLACES = (
  'zone', 'project', 'cluster', 'queue', 'image', 'partition', 'secret', 'service_account',
  'network', 'subnetwork', 'reservation',
)  # fmt: skip
# Which targets have what not all have. Nodes of a cluster have the network that it was made with,
# and XPK an account of its own.
OPTIONS = {
  'queue': ('gke',),
  'secret': ('gke',),
  'partition': ('slurm',),
  'service_account': ('tpu_vm', 'queued', 'gke'),
  'network': ('tpu_vm', 'queued'),
  'subnetwork': ('tpu_vm', 'queued'),
  'internal_ips': ('tpu_vm', 'queued'),
  'reservation': ('tpu_vm', 'queued', 'gke', 'xpk', 'slurm'),
}
SHARED = ('local', 'slurm')  # Targets whose processes see this folder and its disks.
VARIABLE = re.compile(r'[A-Za-z_]\w*=.*', re.ASCII)


def check_text(flag: str) -> None:
  """Raises ValueError, without the flag's value, if no quoting brings it to a process as it is, or
  if it looks like a secret."""
  name = flag.partition('=')[0][:80]
  unsafe = next((char for char in flag if unicodedata.category(char) in UNSAFE), None)
  if unsafe is not None:
    raise ValueError(
      f'{name!r} holds the character {unsafe!r}: leave out line breaks and control characters.'
    )
  if len(flag.encode()) > MAX_FLAG_BYTES:
    raise ValueError(f'{name!r} is longer than {MAX_FLAG_BYTES} bytes: shorten it.')
  if SECRET.search(flag):
    raise ValueError(
      f'{name} looks like a secret, and would be seen in process lists, manifests and logs. Put it '
      'into the environment of the hosts, or into a Kubernetes secret and name that by --secret.'
    )


@dataclasses.dataclass(frozen=True)
class Job:
  """One run on one topology.

  Attributes:
    name: of the run, as Kubernetes and gcloud allow: a-z, 0-9 and -.
    topology: from topology.parse.
    training: flags of the command: --config, its overrides, --workdir.
    zone, project, cluster, queue, image, partition, service_account, network, subnetwork,
      reservation: of the cloud or cluster; '' where not needed.
    provision: 'on-demand', 'spot' or 'reserved'.
    secret: name of a Kubernetes secret whose entries become environment variables.
    internal_ips: the hosts have no addresses outside their network.
    env: NAME=VALUE of every process.
    max_restarts: of a run that fails; preemptions do not count.
    program: the words of the command before its flags.
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
  service_account: str = ''
  network: str = ''
  subnetwork: str = ''
  reservation: str = ''
  internal_ips: bool = False
  env: tuple[str, ...] = ()
  max_restarts: int = 10
  program: tuple[str, ...] = ('python', '-m', 'i2vgen_jax.train')

  def __post_init__(self) -> None:
    if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', self.name):
      raise ValueError(
        f'name={self.name!r}: at most 40 of a-z, 0-9 and -, beginning with a letter.'
      )
    for field in PLACES:
      value = getattr(self, field)
      if value and not NAME.fullmatch(value):
        raise ValueError(
          f'--{field}={value[:80]!r}: at most 254 of letters, digits and _.:/@,+-, beginning '
          'with a letter or digit.'
        )
    for flag in (*self.training, *self.env):
      check_text(flag)
    for variable in self.env:
      if not VARIABLE.fullmatch(variable):
        raise ValueError(
          f'--env={variable[:80]!r}: write NAME=VALUE; a name is of letters, digits and _, and '
          'begins with no digit.'
        )
    if self.reservation and self.provision == 'spot':
      raise ValueError('--reservation and --provision=spot: spot capacity is of no reservation.')

  @property
  def command(self) -> tuple[str, ...]:
    """The command of a process, the same for all of them."""
    many = self.topology.processes > 1 or self.topology.kind == 'tpu'
    distributed = ('--distributed',) if many else ()
    return (*self.program, *distributed, *self.training)

  @property
  def workdir(self) -> str:
    """The --workdir of the training; '' if it has none."""
    found = [flag for flag in self.training if flag.startswith('--workdir=')]
    return found[-1].partition('=')[2] if found else ''

  def supervised(self, *command: str, flags: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A command of this job that launch.supervise starts again by its exit code.

    Args:
      *command: what it starts.
      flags: more flags of launch.supervise.
    """
    return (
      'python', '-m', 'launch.supervise', f'--workdir={self.workdir}',
      f'--max_restarts={self.max_restarts}', *flags, '--', *command,
    )  # fmt: skip

  @property
  def environment(self) -> dict[str, str]:
    """Variables of every process; of a name that `env` has twice the last counts."""
    given = dict(variable.split('=', 1) for variable in self.env)
    return {'PYTHONUNBUFFERED': '1', 'PYTHONFAULTHANDLER': '1'} | given

  def require(self, *names: str) -> None:
    """Raises ValueError if a field that the target needs is empty."""
    for name in names:
      if not getattr(self, name):
        raise ValueError(f'this target needs --{name}.')

  def check_options(self, target: str) -> None:
    """Raises ValueError if a field is given that only other targets have."""
    for name, targets in OPTIONS.items():
      if getattr(self, name) and target not in targets:
        raise ValueError(
          f'--{name}: {target} has no such option, only {", ".join(targets)}. Leave it out.'
        )

  def check_workdir(self, target: str) -> None:
    """Raises ValueError if the hosts of the target do not see the workdir."""
    if target not in SHARED and storage.is_local(self.workdir):
      raise ValueError(
        f'--workdir={self.workdir} is on this machine alone: give a folder that all hosts share, '
        'gs://...'
      )

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
    later: what for -> a command, for the user: to watch, stop and delete what was created.
  """

  files: dict[str, str]
  commands: tuple[tuple[str, ...], ...]
  later: dict[str, tuple[str, ...]]

  def write(self, folder: pathlib.Path) -> None:
    """Writes the files into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in self.files.items():
      (folder / name).write_text(text)

  def show(self, folder: pathlib.Path | None = None) -> str:
    """The files and commands as text for the user.

    Args:
      folder: that the files were written to; None if they were not.
    """
    note = '' if folder else ' (not written: --output=DIR writes it, --go too)'
    parts = [
      f'# ---- {folder / name if folder else name}{note}\n{text}'
      for name, text in self.files.items()
    ]
    moves = [shlex.join(('cd', str(folder)))] if folder and self.files else []
    later = [f'# {purpose}: {shlex.join(command)}' for purpose, command in self.later.items()]
    return '\n'.join([*parts, '# ---- commands', *moves, *map(shlex.join, self.commands), *later])
