"""Whatever a value holds, each process gets it as it was typed, or the launcher refuses it."""

import dataclasses
import random
import shlex

import pytest
import yaml

from i2vgen_jax.parallel import topology
from launch import cloud_tpu, job, kubernetes, local, slurm
from tests.launch import consumers
from tests.launch.test_launch import make_job

PIECES = (
  ' ', '  ', '"', "'", '`touch /tmp/x`', '$(touch x)', '$(PYTHONUNBUFFERED)', '${HOME}', '$HOME',
  '$$', '$', '%h', '%%', '%', ';', ' ; ', '&&', '|', '>x', '<x', '\\', '\\n', '\\\\', '#', ' #',
  '!', '*', '~', '{a,b}', '{}', '{name}', '[', '(', ')', '=', '--privileged', ' -v', 'é', '雪',
  '😀', '\u00a0', 'UNIT', 'x' * 5000, '@', ',', '^', '?', "'\\''", '$(', '\\"', ' %i ',
)  # fmt: skip
_DRAW = random.Random(0)
# Each piece alone, and 100 values of several.
VALUES = [*PIECES, *(''.join(_DRAW.choices(PIECES, k=_DRAW.randint(2, 6))) for _ in range(100))]
FLAGS = (*(f'--config.a={value}' for value in VALUES), "--workdir=/it's $(a) 100%h")
# The same as variables; Linux takes each up to 128 KiB, all of them up to 2 MiB.
GIVEN = {f'GIVEN_{number}': value for number, value in enumerate(VALUES)}
FIELDS = dict(training=FLAGS, env=tuple(f'{name}={value}' for name, value in GIVEN.items()))


def trained(words):
  """The flags of the training in a command."""
  return tuple(words[words.index('i2vgen_jax.train') + 1 :])


def test_services_of_tpu_vms_pass_flags_on(tmp_path):
  """The script itself runs, with its programs replaced and its unit in a folder of the test."""
  for name in ('gcloud', 'docker', 'systemctl'):
    consumers.stand_in(tmp_path / 'bin', name)
  made = make_job(**FIELDS)
  unit = tmp_path / 'base.service'
  text = cloud_tpu.start_script(made).replace('/etc/systemd/system/base.service', str(unit))
  done = consumers.bash(text, tmp_path, tmp_path / 'bin')
  assert done.returncode == 0, done.stderr
  words = consumers.systemd_words(unit.read_text())
  assert words[0] == '/usr/bin/docker' and f'--workdir={made.workdir}' in words
  assert trained(words) == ('--distributed', *FLAGS)
  variables = [word[6:] for word in words[: words.index(made.image)] if word.startswith('--env=')]
  assert dict(variable.split('=', 1) for variable in variables) == made.environment
  assert words.index(made.image) < words.index('launch.supervise') < words.index('--')
  assert {path.name for path in tmp_path.iterdir()} == {'bin', 'base.service'}
  assert consumers.calls(tmp_path / 'bin') == [
    ['gcloud', 'auth', 'configure-docker', 'r.io', '--quiet'], ['docker', 'pull', 'r.io/p/i:1'],
    ['systemctl', 'daemon-reload'], ['systemctl', 'restart', 'base'],
  ]  # fmt: skip


def test_slurm_scripts_pass_flags_on(tmp_path):
  (tmp_path / '.venv' / 'bin').mkdir(parents=True)
  (tmp_path / '.venv' / 'bin' / 'activate').write_text('')
  consumers.stand_in(tmp_path / 'bin', 'python')
  text = slurm.slurm(make_job('2xgpu-8', **FIELDS)).files['job.sbatch']
  done = consumers.bash(text, tmp_path, tmp_path / 'bin')
  assert done.returncode == 0, done.stderr
  [call] = consumers.calls(tmp_path / 'bin')
  assert call[:3] == ['python', '-m', 'launch.supervise']
  assert trained(call) == ('--distributed', *FLAGS)
  assert consumers.environments(tmp_path / 'bin') == [GIVEN]
  assert {path.name for path in tmp_path.iterdir()} == {'.venv', 'bin'}


def test_kubernetes_passes_flags_on():
  made = make_job(**FIELDS)
  (text,) = kubernetes.gke(made).files.values()
  pod = yaml.safe_load(text)['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']
  words = [
    consumers.kubernetes_word(word, made.environment) for word in pod['containers'][0]['args']
  ]
  assert trained(words) == ('--distributed', *FLAGS)
  # Kubernetes fills in values as it does arguments, by the variables before them.
  known = {}
  for variable in pod['containers'][0]['env']:
    known[variable['name']] = consumers.kubernetes_word(variable['value'], known)
  assert known == made.environment


def test_xpk_passes_flags_on(tmp_path):
  """It lays the command into a script for bash, in a manifest."""
  consumers.stand_in(tmp_path, 'python')
  made = make_job(**FIELDS)
  (command,) = kubernetes.xpk(made).commands
  (text,) = [word.removeprefix('--command=') for word in command if '--command=' in word]
  done = consumers.bash(consumers.kubernetes_word(text, made.environment), tmp_path, tmp_path)
  assert done.returncode == 0, done.stderr
  assert trained(consumers.calls(tmp_path)[0]) == ('--distributed', *FLAGS)
  assert consumers.environments(tmp_path) == [GIVEN]


def test_what_is_shown_can_be_pasted_into_a_shell(tmp_path):
  consumers.stand_in(tmp_path / 'bin', 'python')
  done = consumers.bash(local.show(make_job('2xcpu-1', **FIELDS)), tmp_path, tmp_path / 'bin')
  assert done.returncode == 0, done.stderr
  calls = consumers.calls(tmp_path / 'bin')
  assert [trained(call) for call in calls] == [('--distributed', *FLAGS)] * 2
  assert consumers.environments(tmp_path / 'bin') == [GIVEN] * 2
  plan = kubernetes.xpk(make_job(**FIELDS))
  lines = plan.show().partition('# ---- commands\n')[2].splitlines()
  words = [tuple(shlex.split(line, comments=True)) for line in lines]
  assert list(filter(None, words)) == list(plan.commands)


@pytest.mark.parametrize(
  'character',
  ['\n', '\r', '\0', '\x1b', '\t', '\x7f', '\x85', '\u2028', '\u2029', '\udcff', '\uffff'],
)
def test_what_no_quoting_protects_is_refused_everywhere(character):
  for flag in (
    f'--workdir=/a{character}b',
    f'--config=c.py:{character}',
    f'--config.{character}=1',
  ):
    with pytest.raises(ValueError, match='leave out line breaks and control characters'):
      make_job(training=('--config=c.py', flag))
    with pytest.raises(ValueError, match='leave out line breaks and control characters'):
      make_job(env=(f'A={flag}',))
  for field in ('name', *job.PLACES):
    with pytest.raises(ValueError, match=f'{field}='):
      dataclasses.replace(make_job(), **{field: f'x{character}UNIT'})
    with pytest.raises(ValueError, match=f'{field}='):
      dataclasses.replace(make_job(), **{field: f'x{character}'})


@pytest.mark.parametrize(
  'value', ['-v/:/x', '--rm', 'a b', 'a;b', '$(a)', '`a`', "a'b", 'a%h', 'é']
)
def test_names_of_clouds_are_words_and_no_flags(value):
  for field in ('name', *job.PLACES):
    with pytest.raises(ValueError, match=f'{field}='):
      dataclasses.replace(make_job(), **{field: value})


def test_fields_that_clouds_have_are_taken():
  make_job(
    zone='us-central2-b', project='example.com:proj-1', partition='a100,h100_long',
    image='europe-docker.pkg.dev/p/r/i2vgen@sha256:0f', queue='team.a', secret='keys',
  )  # fmt: skip


def test_flags_beyond_what_a_process_takes_are_refused():
  with pytest.raises(ValueError, match="'--workdir' is longer than 100000 bytes"):
    make_job(training=('--workdir=' + 'x' * 100_000,))


@pytest.mark.parametrize(
  ('name', 'many'),
  [
    ('gpu-1', False), ('gpu-8', True), ('2xgpu-1', True), ('2xgpu-8', True), ('cpu-4', False),
    ('2xcpu-1', True), ('v5e-4', True), ('v5p-8', True), ('v5e-16', True), ('2xv5e-4', True),
  ],
)  # fmt: skip
def test_processes_find_each_other_wherever_there_are_several(name, many):
  made = make_job(name)
  assert ('--distributed' in made.command) == many
  if made.topology.kind == 'gpu':
    text = slurm.slurm(made).files['job.sbatch']
    numbers = dict(line[10:].split('=') for line in text.splitlines() if '#SBATCH --n' in line)
    tasks = int(numbers['nodes']) * int(numbers['ntasks-per-node'])
    assert tasks == topology.parse(name).processes and (tasks > 1) == many
