"""Every command of the repository, found in its packages, and what may be done wrong with each.

As a process, `python -m tests.commands LINES RESULTS` runs many command lines: each in a fork of
one process that has imported everything, so that none waits for imports. With a third argument, a
command ends with exit code COMPILES when it would compile its first program.
"""

import argparse
import ast
import asyncio
import dataclasses
import importlib
import json
import os
import pathlib
import re
import runpy
import signal
import sys
import traceback
import types
import warnings

import gcsfs.retry
import jax

from data_pipelines.engines import choice

ROOT = pathlib.Path(__file__).parent.parent
SECS = 300  # After which a command line counts as hanging.
VARIABLE = re.compile('[A-Z][A-Z0-9_]*=')  # NAME=VALUE before a command.
COMPILES = 99  # In place of the exit code of a command.
LOWERED = '/jax/core/compile/jaxpr_to_mlir_module_duration'
KEYS = ('jit(stage)', 'jit(_threefry_seed)')  # Small programs, by which random keys are made.
HELP = ('--help', '-h', '--helpfull')


@dataclasses.dataclass(frozen=True)
class Command:
  """What is typed, and its flags: name -> 'string', 'integer', 'float', 'enum' or 'bool'."""

  typed: tuple[str, ...]
  flags: dict[str, str]
  required: tuple[str, ...]  # Flags; '' is an argument without a name.

  @property
  def name(self) -> str:
    """For people."""
    return ' '.join(self.typed)


def find_all() -> list[Command]:
  """Modules of i2vgen_jax and launch that can be run, and the commands of data_pipelines."""
  found = []
  for package in ('i2vgen_jax', 'launch'):
    for path in sorted((ROOT / package).rglob('*.py')):
      tree = ast.parse(path.read_text())
      if any(isinstance(node, ast.If) and _is_main(node.test) for node in tree.body):
        found.append(_of_absl(path, tree))
  return found + list(_of_argparse())


def _is_main(test):
  return ast.unparse(test) == "__name__ == '__main__'"


def _of_absl(path, tree):
  module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__main__')
  flags, required = {}, []
  for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
    name = ast.unparse(call.func).rpartition('.')[2]
    given = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    if name.startswith('DEFINE_') and given:
      flags[given[0]] = name.removeprefix('DEFINE_')
    elif name == 'mark_flags_as_required':
      required += ast.literal_eval(call.args[0])
  typed = (module, 'local') if module == 'launch' else (module,)
  return Command(typed, flags, tuple(required))


def _of_argparse():
  main = importlib.import_module('data_pipelines.__main__')
  [commands] = [
    action
    for action in main.make_parser()._actions
    if isinstance(action, argparse._SubParsersAction)
  ]
  kinds = {int: 'integer', choice.at_least_one: 'integer', float: 'float', None: 'string'}
  for name, parser in commands.choices.items():
    if (ROOT / 'i2vgen_jax' / f'{name}.py').exists():
      continue  # Another name of a command above.
    flags, required = {}, []
    for action in parser._actions:
      flag = action.option_strings[0].removeprefix('--') if action.option_strings else ''
      flags[flag] = 'enum' if action.choices else kinds[action.type]
      if action.required and action.nargs != '*':
        required.append(flag)
    for group in parser._mutually_exclusive_groups:
      if group.required and not group._group_actions[0].option_strings:
        required.append('')
    yield Command(('data_pipelines', name), flags, tuple(required))


def mistakes(command: Command, folder: pathlib.Path) -> dict[str, list[str]]:
  """Name of a mistake -> arguments with which the command must end with exit code 2.

  `folder` must hold what `write_files` writes.
  """
  absent, broken = folder / 'absent', folder / 'broken'
  given = dict(topology='v5p-8', config='configs/demo.py', step='1')
  nowhere = given | dict(output=folder / 'file' / 'below', workdir=folder / 'file' / 'below')
  found = {
    'no argument': [],
    'an unknown flag': [*_fill(command, nowhere, absent), '--no_such_flag=1'],
  }
  paths = set(command.required) - {'config', 'topology', 'step'}
  if paths:
    found['a path that is not there, or below a file'] = _fill(command, nowhere, absent)
  for kind in ('integer', 'float', 'enum'):
    name = next((name for name, its_kind in command.flags.items() if its_kind == kind), None)
    if name:
      wrong = f'--{name}=nonsense'
      found[f'{wrong}, of type {kind}'] = [*_fill(command, nowhere, absent), wrong]
  if 'config' in command.required:
    for name in ('absent.py', 'syntax.py', 'raises.py', 'three.py'):
      arguments = _fill(command, given | dict(config=folder / name, output=absent), absent)
      found[f'the config {name}'] = arguments
  if paths - {'output'}:
    found['damaged JSON'] = _fill(command, given | dict(output=absent), broken)
  return found


def _fill(command, values, other):
  """A value for each required flag."""
  flags = {name: values.get(name, other) for name in command.required}
  return [f'--{name}={value}' if name else str(value) for name, value in flags.items()]


def write_files(folder: pathlib.Path) -> None:
  """What the mistakes are made with."""
  (folder / 'broken').mkdir(parents=True)
  (folder / 'file').write_text('')
  for name in ('config.json', 'manifest.json'):
    (folder / 'broken' / name).write_text('{"version": ')
  (folder / 'syntax.py').write_text('def get_config(:\n')
  (folder / 'raises.py').write_text('def get_config():\n  return nowhere\n')
  (folder / 'three.py').write_text('def get_config():\n  return 3\n')


def run_all(lines: list[list[str]], until_compilation: bool = False) -> list[tuple[int, str, str]]:
  """(exit code, stdout, stderr) of each, as `python -m` would give."""
  for module in {next(word for word in line if not VARIABLE.match(word)) for line in lines}:
    importlib.import_module(module)
  warnings.filterwarnings('ignore', '.* found in sys.modules', RuntimeWarning)  # By runpy.
  if until_compilation:
    jax.monitoring.register_event_duration_secs_listener(_end_at_compilation)
  return [_run(line) for line in lines]


def _end_at_compilation(event, secs, fun_name='', **more):
  """Called when a program has been lowered, and would be compiled next."""
  if event == LOWERED and fun_name not in KEYS:
    os._exit(COMPILES)


def _run(line):
  streams = [os.memfd_create(name) for name in ('stdout', 'stderr')]
  child = os.fork()
  if not child:
    signal.alarm(SECS)
    for target, stream in enumerate(streams, 1):
      os.dup2(stream, target)
    os._exit(_exit_code(line))
  _, status = os.waitpid(child, 0)
  texts = []
  for stream in streams:
    with os.fdopen(stream, 'rb') as file:
      file.seek(0)
      texts.append(file.read().decode(errors='replace'))
  return os.waitstatus_to_exitcode(status), *texts


def _set_environment(variables):
  """Of this process, which has imported JAX; ABSENT=x,y are packages that are not installed."""
  for name, _, value in (variable.partition('=') for variable in variables):
    if name == 'ABSENT':
      sys.modules |= dict.fromkeys(value.split(','))
      os.environ.pop('TPU_LIBRARY_PATH', None)  # Left by libtpu, if this process had it loaded.
    elif name == 'DEVICES':
      jax.config.update('jax_num_cpu_devices', int(value))
    else:
      os.environ[name] = value
    if name == 'STORAGE_EMULATOR_HOST':  # Of nobody: requests are repeated, but without pauses.
      gcsfs.retry.asyncio = types.SimpleNamespace(sleep=lambda secs: asyncio.sleep(0))


def _exit_code(line):
  """Runs it and ends as Python itself does."""
  _set_environment([word for word in line if VARIABLE.match(word)])
  line = [word for word in line if not VARIABLE.match(word)]
  sys.argv = [line[0], *line[1:]]
  code = 0
  try:
    runpy.run_module(line[0], run_name='__main__', alter_sys=True)
  except SystemExit as end:
    code = end.code or 0
    if not isinstance(code, int):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
    code = 1
  sys.stdout.flush()
  sys.stderr.flush()
  return code


if __name__ == '__main__':
  lines, results = map(pathlib.Path, sys.argv[1:3])
  results.write_text(json.dumps(run_all(json.loads(lines.read_text()), len(sys.argv) > 3)))
