"""Launching without a cloud: what is rendered is valid, means what the exit codes say, and mistakes
are named before anyone pays for them."""

import math
import pathlib
import subprocess

import pytest

from configs import demo, meshes
from i2vgen_jax.parallel import topology
from launch import __main__ as launch_main
from launch import cloud_tpu, job, kubernetes, local, slurm
from tests import runs

ROOT = pathlib.Path(__file__).parents[2]


def make_job(name='v5p-128', **fields):
  fields = dict(
    name='base', topology=topology.parse(name), training=('--config=configs/base.py:batch=512',
    "--workdir=gs://bucket/it's 100%/$run"), zone='z', project='p', cluster='c', image='r.io/p/i:1',
  ) | fields  # fmt: skip
  return job.Job(**fields)


@pytest.mark.parametrize('name', [name for name in meshes.MESHES if '-' in name])
@pytest.mark.parametrize('slices', ['', '2x', '4x'])
def test_every_mesh_has_as_many_devices_as_the_topology_of_its_name(name, slices):
  sizes = meshes.get(slices + name)
  assert math.prod(sizes.values()) == topology.parse(slices + name).devices
  assert sizes['fsdp'] <= 64


@pytest.mark.parametrize(
  ('name', 'hosts', 'devices', 'accelerator', 'grid'),
  [
    ('v5e-256', 64, 256, 'v5litepod-256', '16x16'),
    ('v5p-8', 1, 4, 'v5p-8', '2x2x1'),
    ('v5p-1024', 128, 512, 'v5p-1024', '8x8x8'),
    ('2xv6e-16', 8, 32, 'v6e-16', '4x4'),
    ('tpu7x-128', 16, 128, 'tpu7x-128', '4x4x4'),
  ],
)
def test_topologies_are_those_of_xpks_table(name, hosts, devices, accelerator, grid):
  machines = topology.parse(name)
  assert (machines.hosts, machines.devices) == (hosts, devices)
  assert (machines.accelerator_type, machines.grid) == (accelerator, grid)


@pytest.mark.parametrize('name', ['v5p-100', 'v4-8', '0xv5p-8', 'v5p', 'gpu-0', '2x4'])
def test_unknown_topologies_are_refused(name):
  with pytest.raises(ValueError, match='known: v5e-'):
    topology.parse(name)


def shellcheck(path):
  """SC1091: what it sources is elsewhere. SC2016, an info: a quoted $ in a flag is meant."""
  return subprocess.run(
    ['shellcheck', '--shell=bash', '--exclude=SC1091,SC2016', str(path)],
    capture_output=True,
    text=True,
  )


def hadolint(text):
  return subprocess.run(['hadolint', '-'], input=text, capture_output=True, text=True)


SCRIPTS = {
  'start.sh': lambda: cloud_tpu.start_script(make_job()),
  'job.sbatch': lambda: slurm.slurm(make_job('2xgpu-8', partition='a')).files['job.sbatch'],
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_rendered_scripts_pass_shellcheck(name, tmp_path):
  (tmp_path / name).write_text(SCRIPTS[name]())
  done = shellcheck(tmp_path / name)
  assert done.returncode == 0, done.stdout


def test_scripts_and_dockerfile_of_this_repository_pass_their_linters():
  scripts = list((ROOT / 'launch').glob('*.sh'))
  assert {'env.sh', 'test.sh'} <= {script.name for script in scripts}
  for script in scripts:
    done = shellcheck(script)
    assert done.returncode == 0, done.stdout
  assert hadolint((ROOT / 'launch' / 'Dockerfile').read_text()).returncode == 0


@pytest.mark.parametrize(
  ('right', 'wrong'),
  [
    ('exec python', 'if python'),
    ('"\'"', '"\''),
    ('export PYTHONUNBUFFERED=1', 'export PYTHONUNBUFFERED = $1'),
  ],
)
def test_typos_in_scripts_are_caught(right, wrong, tmp_path):
  text = SCRIPTS['job.sbatch']()
  assert right in text
  (tmp_path / 'typo.sbatch').write_text(text.replace(right, wrong))
  assert shellcheck(tmp_path / 'typo.sbatch').returncode != 0


@pytest.mark.parametrize(
  ('right', 'wrong'), [('WORKDIR /', 'WORKDIR '), ('COPY . .', 'COPYY . .'), ('==1.2.5.post1', '')]
)
def test_typos_in_the_dockerfile_are_caught(right, wrong):
  text = (ROOT / 'launch' / 'Dockerfile').read_text()
  assert right in text
  assert hadolint(text.replace(right, wrong)).returncode != 0


def test_a_service_restarts_by_the_same_exit_codes_and_quotes_as_systemd_reads():
  text = cloud_tpu.start_script(make_job())
  assert 'RestartPreventExitStatus=1 2 3\n' in text and 'TimeoutStopSec=180\n' in text
  assert '"--workdir=gs://bucket/it\'s 100%%/$$run"' in text


def test_queued_resources_ask_for_all_slices_at_once():
  (command,) = cloud_tpu.queued(make_job('2xv5e-256', provision='spot')).commands
  wanted = {
    '--node-count=2', '--node-prefix=base', '--accelerator-type=v5litepod-256', '--spot',
    '--runtime-version=v2-alpha-tpuv5-lite',
  }  # fmt: skip
  assert wanted <= set(command)


TARGETS = launch_main.TARGETS | {'local': local.show}
KINDS = {'slurm': '2xgpu-8', 'local': '2xcpu-1'}


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('field', job.OPTIONS)
def test_options_reach_the_targets_that_have_them_and_others_refuse_them(target, field):
  value = True if field == 'internal_ips' else 'my-value'
  made = make_job(KINDS.get(target, 'v5p-128'), **{field: value})
  if target not in job.OPTIONS[field]:
    with pytest.raises(ValueError, match=f'--{field}: {target} has no such option, only '):
      TARGETS[target](made)
    return
  plan = TARGETS[target](made)
  assert 'my-value' in plan.show() or '--internal-ips' in plan.commands[0]


DELETED = {
  'gke': 'kubectl delete jobset base',
  'xpk': 'xpk workload delete --cluster=c --project=p --zone=z --workload=base',
  'tpu_vm': 'gcloud compute tpus tpu-vm delete base --zone=z --project=p',
  'queued': 'gcloud compute tpus queued-resources delete base --zone=z --project=p --force',
  'slurm': 'scancel --me --name=base',
}


@pytest.mark.parametrize('target', launch_main.TARGETS)
def test_what_is_shown_says_how_to_watch_and_how_to_delete_as_comments(target):
  made = make_job(KINDS.get(target, 'v5p-128'))
  shown = TARGETS[target](made).show().partition('# ---- commands\n')[2].splitlines()
  later = [line for line in shown if line.startswith('# ')]
  assert later[-1].endswith(f'delete: {DELETED[target]}')
  assert any(line.startswith(('# watch', '# log')) for line in later)
  assert not any('delete' in line or 'stop' in line for line in shown if line not in later)


def test_a_preflight_says_that_its_machines_are_to_be_deleted_before_the_training():
  job = launch_main.preflight(make_job(training=('--config=c.py', '--workdir=gs://b/r')))
  plan = cloud_tpu.tpu_vm(job)
  assert plan.later['delete'][5:6] == ('base-preflight',)
  note = launch_main.preflight_note(job)
  assert 'gs://b/r/preflight/report.json' in note and 'delete it' in note


def test_hosts_without_outside_addresses_are_reached_from_inside():
  create, *reached = cloud_tpu.tpu_vm(make_job(internal_ips=True)).commands
  assert '--internal-ips' in create and all('--internal-ip' in command for command in reached)
  assert not any('--internal-ip' in command for command in cloud_tpu.tpu_vm(make_job()).commands)


@pytest.mark.parametrize('target', [cloud_tpu.tpu_vm, cloud_tpu.queued])
def test_a_reservation_is_named_to_the_gcloud_that_takes_it(target):
  command = target(make_job(reservation='projects/p/reservations/r', provision='reserved'))
  assert command.commands[0][:2] == ('gcloud', 'alpha')
  assert '--reservation=projects/p/reservations/r' in command.commands[0]
  assert '--reserved' not in command.commands[0]
  with pytest.raises(ValueError, match='spot capacity is of no reservation'):
    make_job(reservation='r', provision='spot')


@pytest.mark.parametrize('variable', ['A', '=x', '1A=x', 'A-B=x', 'é=x', ' A=x', ''])
def test_variables_are_named_as_shells_allow(variable):
  with pytest.raises(ValueError, match='--env=.* write NAME=VALUE'):
    make_job(env=(variable,))


def test_tpu_vm_starts_all_workers():
  create, copied, started = cloud_tpu.tpu_vm(make_job()).commands
  assert '--accelerator-type=v5p-128' in create
  assert '--worker=all' in copied and '--worker=all' in started


@pytest.mark.parametrize(
  'flag',
  [
    '--config.hf_token=abc',
    '--config.api_key=abc',
    '--workdir=https://u:p@x?token=abc',
    '--config.name=hf_abcdefghijklmnopqrstuvwx',
  ],
)
def test_secrets_are_refused_and_not_repeated(flag):
  with pytest.raises(ValueError, match='looks like a secret') as raised:
    make_job(training=(flag,))
  assert 'abc' not in str(raised.value)
  with pytest.raises(ValueError, match='looks like a secret') as raised:
    make_job(env=(flag.removeprefix('--config.').replace('--', ''),))
  assert 'abc' not in str(raised.value)


@pytest.mark.parametrize('flag', ['--config.tokenizer=dir', '--config=x.py:num_tokens=3'])
def test_words_that_only_sound_like_secrets_pass(flag):
  make_job(training=(flag,))


@pytest.mark.parametrize(
  ('target', 'made', 'message'),
  [
    (kubernetes.gke, dict(image=''), 'needs --image'),
    (kubernetes.gke, dict(name='gpu-8'), 'runs on tpu, not on gpu'),
    (kubernetes.xpk, dict(provision='reserved'), 'name one by --reservation'),
    (cloud_tpu.tpu_vm, dict(name='2xv5p-8'), 'makes one slice'),
    (cloud_tpu.queued, dict(zone=''), 'needs --zone'),
    (slurm.slurm, dict(), 'runs on gpu, not on tpu'),
    (local.show, dict(name='cpu-1', env=('JAX_PLATFORMS=tpu',)), 'local sets it itself'),
  ],
)
def test_what_a_target_cannot_do_is_said(target, made, message):
  with pytest.raises(ValueError, match=message):
    target(make_job(**made))


@pytest.mark.parametrize('target', TARGETS)
def test_a_workdir_of_this_machine_is_refused_before_anything_is_shown_for_a_cloud(
  target, tmp_path, capsys
):
  made = make_job(KINDS.get(target, 'v5p-128'), training=('--config=c.py', f'--workdir={tmp_path}'))
  if target in ('local', 'slurm'):
    made.check_workdir(target)
    return
  with pytest.raises(ValueError, match=f'--workdir={tmp_path} is on this machine alone: give a fo'):
    launch_main.start(made, target, str(tmp_path / 'plan'), go=False)
  assert not capsys.readouterr().out and not (tmp_path / 'plan').exists()


def test_a_config_that_does_not_fit_the_topology_is_refused():
  config = demo.get_config()
  config.data.buckets.videos.batch_size = 32
  config.mesh = meshes.get('v5e-16')
  launch_main.check_fit(config, topology.parse('v5e-16'))
  with pytest.raises(ValueError, match='needs 16 devices, but there are 32'):
    launch_main.check_fit(config, topology.parse('2xv5e-16'))
  config.mesh = dict(slice=1, data=2, fsdp=16, tensor=1)
  with pytest.raises(ValueError, match='has 1 slices, but topology=2xv5e-16 has 2'):
    launch_main.check_fit(config, topology.parse('2xv5e-16'))
  config.mesh = meshes.get('v5e-64')
  with pytest.raises(ValueError, match='batch_size=.* must be a multiple of 64'):
    launch_main.check_fit(config, topology.parse('v5e-64'))


@pytest.mark.parametrize('target', ['gke', 'queued', 'tpu_vm', 'slurm'])
def test_files_are_written_wherever_a_folder_is_given_and_shown_by_paths_that_exist(
  target, tmp_path, capsys
):
  made = make_job(KINDS.get(target, 'v5p-128'))
  launch_main.start(made, target, str(tmp_path / 'plan'), go=False)
  shown = capsys.readouterr().out
  files = launch_main.TARGETS[target](made).files
  assert files == {path.name: path.read_text() for path in (tmp_path / 'plan').iterdir()}
  for name in files:
    assert f'# ---- {tmp_path}/plan/{name}\n' in shown
  assert f'# ---- commands\ncd {tmp_path}/plan\n' in shown
  launch_main.start(made, target, '', go=False)
  assert '(not written: --output=DIR writes it' in capsys.readouterr().out


def test_the_command_shows_its_plan_and_names_typos_in_one_line():
  flags = (
    '--topology=v5p-8',
    '--config=configs/demo.py',
    '--config.mesh.fsdp=4',
    '--workdir=gs://b/w',
  )
  done = runs.module('launch', 'gke', *flags, '--config.mesh.data=1', '--image=i:1')
  assert done.returncode == 0, done.stderr
  assert '--config.mesh.fsdp=4' in done.stdout and 'kubectl apply -f jobset.yaml' in done.stdout
  done = runs.module('launch', 'gek', *flags)
  assert done.returncode == 2
  assert "'gek' is unknown; known: local, tpu_vm" in done.stderr and 'Trace' not in done.stderr
