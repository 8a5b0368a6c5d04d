"""Every command shows its help with exit code 0, and ends with 2 and one line for a mistake."""

import importlib
import json
import subprocess
import sys

import pytest

from i2vgen_jax.process import exit_codes
from tests import commands, conftest, runs

COMMANDS = {command.name: command for command in commands.find_all()}
# A process for each command line: whether its --help has imported JAX, or what ended it.
HELP = """
import json, os, runpy, sys
import data_pipelines.__main__
found = []
for line in json.loads(sys.argv[1]):
  reader, writer = os.pipe()
  if not os.fork():
    sys.stdout = open(os.devnull, 'w')
    sys.argv, end = line, 'nothing'
    leave, os._exit = os._exit, sys.exit
    try:
      runpy.run_module(line[0], run_name='__main__', alter_sys=True)
    except BaseException as error:
      end = repr(error)
    os.write(writer, json.dumps([end, 'jax' in sys.modules]).encode())
    leave(0)
  os.close(writer)
  found.append(json.loads(os.read(reader, 10_000)))
print(json.dumps(found))
"""


@pytest.fixture(scope='session')
def ended(tmp_path_factory):
  """(command, mistake or help flag) -> (exit code, stdout, stderr)."""

  def make(folder):
    commands.write_files(folder)
    lines = {}
    for name, command in COMMANDS.items():
      tried = {flag: [flag] for flag in commands.HELP} | commands.mistakes(command, folder)
      lines |= {(name, what): [*command.typed, *given] for what, given in tried.items()}
    (folder / 'ended.json').write_text(json.dumps(list(runs.commands(lines).items())))

  folder = conftest.made_once(tmp_path_factory, 'exit_codes', make)
  ended = json.loads((folder / 'ended.json').read_text())
  return {tuple(key): result for key, result in ended}


def of(ended, name):
  return {what: result for (command, what), result in ended.items() if command == name}


def test_commands_of_all_packages_are_found():
  packages = {name.split()[0].split('.')[0] for name in COMMANDS}
  assert packages == {'i2vgen_jax', 'data_pipelines', 'launch'}
  assert {'i2vgen_jax.train', 'i2vgen_jax.plan', 'i2vgen_jax.demo.train_vae'} < set(COMMANDS)
  assert {'data_pipelines ingest', 'data_pipelines bench', 'launch local'} < set(COMMANDS)


def test_a_module_that_is_imported_runs_nothing():
  """As the image's smoke test imports all of them; here those whose name says that they run."""
  for package in ('data_pipelines', 'i2vgen_jax', 'launch'):
    for path in sorted((runs.ROOT / package).rglob('__main__.py')):
      importlib.import_module('.'.join(path.relative_to(runs.ROOT).with_suffix('').parts))


@pytest.mark.slow
def test_the_smoke_test_of_the_image_passes():
  done = subprocess.run(
    ['bash', 'launch/smoke.sh'],
    cwd=runs.ROOT,
    env=runs.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'smoke test passed: ' in done.stdout


@pytest.mark.parametrize('name', COMMANDS)
def test_help_is_no_failure(name, ended):
  for flag in commands.HELP:
    code, stdout, stderr = of(ended, name)[flag]
    assert code == exit_codes.DONE, stderr
    for required in COMMANDS[name].required:
      assert required in stdout


def test_no_help_waits_for_jax():
  lines = [[*command.typed, '--help'] for command in COMMANDS.values()]
  lines += [['i2vgen_jax.train', '--help_config'], ['i2vgen_jax.train', '--help_config=lora']]
  code = [sys.executable, '-c', HELP, json.dumps(lines)]
  done = subprocess.run(code, cwd=runs.ROOT, capture_output=True, text=True, check=True)
  found = dict(zip(map(' '.join, lines), json.loads(done.stdout), strict=True))
  assert found == dict.fromkeys(found, ['SystemExit(0)', False])


@pytest.mark.parametrize('name', COMMANDS)
def test_a_mistake_is_one_line_and_exit_code_2(name, ended):
  made = {what: result for what, result in of(ended, name).items() if what[0] != '-'}
  made |= {what: result for what, result in of(ended, name).items() if 'of type' in what}
  assert {'no argument', 'an unknown flag'} <= set(made)
  for what, (code, _, stderr) in made.items():
    assert code == exit_codes.USAGE, f'{what}: {stderr[-2000:]}'
    assert 'Traceback' not in stderr, what
    assert 'error: ' in stderr.splitlines()[-1], what


def test_mistakes_of_every_kind_are_tried(ended):
  tried = {what.split(', ')[-1] for _, what in ended}
  assert tried > {f'of type {kind}' for kind in ('integer', 'float', 'enum')}
  assert tried > {'damaged JSON', 'the config syntax.py', 'or below a file'}
