"""The wheel holds what the code reads and works from any folder; pins fit pyproject's ranges."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
import yaml
from packaging import requirements, utils

from i2vgen_jax.process import config_flag

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']
PACKAGES = ('configs', 'data_pipelines', 'i2vgen_jax', 'launch')
FOR_READERS = {'.md', '.sh', '.dockerignore', ''}  # '': the Dockerfile.


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel of the work tree, built without a network."""
  folder = tmp_path_factory.mktemp('wheel')
  build = [sys.executable, '-m', 'hatchling', 'build', '-t', 'wheel', '-d', str(folder)]
  done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return next(folder.glob('*.whl'))


def packaged_files():
  for package in PACKAGES:
    for path in (ROOT / package).rglob('*'):
      if path.is_file() and '__pycache__' not in path.parts and path.suffix not in FOR_READERS:
        yield path.relative_to(ROOT).as_posix()


def test_the_wheel_holds_all_code_and_every_file_that_it_reads(wheel):
  files = set(packaged_files())
  assert {'.py', '.html', '.json', '.txt', '.safetensors', '.typed'} <= {
    pathlib.Path(name).suffix for name in files
  }
  with zipfile.ZipFile(wheel) as archive:
    metadata = {name for name in archive.namelist() if '.dist-info/' in name}
    assert set(archive.namelist()) - metadata == files
    for name in files:
      assert archive.read(name) == (ROOT / name).read_bytes(), name
    names = {name.partition('.dist-info/')[2] for name in metadata}
  assert {'licenses/LICENSE', 'licenses/THIRD_PARTY.md'} <= names


USE = """
import os, pathlib, sys
from absl import flags
from data_pipelines.report import command
from data_pipelines import user_errors
from i2vgen_jax.pretrained import tokenizers
from i2vgen_jax.process import config_flag, paths
config_flag.define()
sys.argv = ['', '--config=configs/demo.py:steps=40', '--config.train.log_every=7']
flags.FLAGS(sys.argv)
config = flags.FLAGS.config
assert (config.train.num_steps, config.train.log_every) == (40, 7)
assert tokenizers.load_clip(config.tokenizer, config.pad_token)('a red circle')['input_ids']
assert paths.find(config.vae.weights).exists()
site = pathlib.Path(os.environ['PYTHONPATH'])
assert site in pathlib.Path(paths.__file__).parents
assert user_errors.is_ours(site / 'configs' / 'demo.py')
assert not user_errors.is_ours(site / 'numpy' / 'core.py')
"""


def test_the_installed_packages_find_configs_and_demo_files_from_any_folder(wheel, tmp_path):
  site, elsewhere = tmp_path / 'site', tmp_path / 'elsewhere'
  elsewhere.mkdir()
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(site)
  environment = dict(os.environ, PYTHONPATH=str(site), JAX_PLATFORMS='cpu')
  for arguments, expected in (
    (['-c', USE], ''),
    (['-m', 'i2vgen_jax.train', '--help'], '--config: configs/<name>.py[:arg]'),
  ):
    done = subprocess.run(
      [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert 'Traceback' not in done.stderr, done.stderr
    assert expected in done.stdout, done.stdout + done.stderr


def test_a_config_path_as_given_wins_over_the_installed_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config_flag.find('configs/base.py') == str(ROOT / 'configs' / 'base.py')
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'base.py').touch()
  assert config_flag.find('configs/base.py') == 'configs/base.py'
  assert config_flag.find('configs/demo.py') == str(ROOT / 'configs' / 'demo.py')


@pytest.mark.parametrize('path', ['configs/nope.py', 'base.py', 'launch/job.py', '/nope/base.py'])
def test_only_configs_are_looked_for_elsewhere(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert config_flag.find(path) == path


def parse(lines):
  """Canonical name -> requirement."""
  parsed = [requirements.Requirement(line) for line in lines]
  return {utils.canonicalize_name(requirement.name): requirement for requirement in parsed}


def pins(file):
  """Canonical name -> (version, extras)."""
  lines = [re.sub(r'\s*#.*', '', line) for line in (ROOT / file).read_text().splitlines()]
  found = parse(line for line in lines if line and not line.startswith('-r'))
  versions = {}
  for name, requirement in found.items():
    (clause,) = requirement.specifier
    assert clause.operator == '==', f'{file}: {requirement} is not pinned'
    versions[name] = (clause.version, requirement.extras)
  return versions


@pytest.mark.parametrize(
  ('file', 'declared'),
  [('requirements.txt', PROJECT['dependencies']), ('requirements-test.txt', EXTRAS['test'])],
)
def test_requirements_pin_what_pyproject_declares_and_nothing_else(file, declared):
  pinned, declared = pins(file), parse(declared)
  assert set(pinned) == set(declared)
  for name, requirement in declared.items():
    version, extras = pinned[name]
    assert requirement.specifier.contains(version), f'{requirement} and {version} in {file}'
    assert requirement.extras == extras, name


@pytest.mark.parametrize(
  ('file', 'extra', 'driver'),
  [
    ('requirements.lock', 'tpu', 'libtpu'),
    ('requirements-gpu.lock', 'gpu', 'jax-cuda13-plugin'),
  ],
)
def test_an_images_lock_has_every_pin_by_hash(file, extra, driver):
  blocks = re.split(r'\n(?=[\w])', (ROOT / 'launch' / file).read_text())[1:]
  locked = {}
  for block in blocks:
    name, version = re.match(r'([\w.-]+)(?:\[\w+\])?==([^\s;\\]+)', block).groups()
    assert '--hash=sha256:' in block, name
    locked[utils.canonicalize_name(name)] = version
  pinned = {name: version for name, (version, _) in pins('requirements.txt').items()}
  assert {name: locked.get(name) for name in pinned} == pinned
  assert driver in locked
  [jax] = parse(EXTRAS[extra]).values()
  assert jax.specifier.contains(locked['jax'])


@pytest.mark.parametrize('extra', sorted(set(EXTRAS) - {'test'}))
def test_other_extras_fit_the_pins_or_are_pinned_themselves(extra):
  pinned = pins('requirements.txt') | pins('requirements-test.txt')
  for name, requirement in parse(EXTRAS[extra]).items():
    if name in pinned:
      assert requirement.specifier.contains(pinned[name][0]), requirement
    else:
      assert [clause.operator for clause in requirement.specifier] == ['=='], requirement


def test_the_version_is_the_same_wherever_it_stands():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert str(citation['version']) == PROJECT['version']
  heading = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
  assert heading[1] == PROJECT['version']


def test_a_commit_runs_the_checks_that_the_test_script_runs():
  script = (ROOT / 'launch' / 'test.sh').read_text()
  checks = re.search(r'^prepare_env .*\n((?:.*\n)*?)\[', script, re.MULTILINE)[1].splitlines()
  config = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())
  hooks = {hook['entry'] for repo in config['repos'] for hook in repo['hooks']}
  assert len(checks) >= 2 and set(checks) <= hooks
