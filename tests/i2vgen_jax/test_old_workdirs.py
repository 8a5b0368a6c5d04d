"""Runs of commit 93877d3 go on, sample and export as they did there.

They lie in golden/workdirs.tar.xz, beside what that commit made of them: golden/make_workdirs.py.
"""

import json
import logging
import subprocess
import sys
import tarfile

import av
import numpy as np
import pytest
from absl import logging as absl_logging

from i2vgen_jax.stored import old_configs, run_config
from tests import runs
from tests.golden import make_workdirs, recorded

ARCHIVE = recorded.FOLDER / 'workdirs.tar.xz'
# A user's own config file, on top of a shipped one.
CONFIG_FILE = 'from tests.golden.make_workdirs import {name} as get_config\n'
# The config that the run was started with, as its workdir has it.
FROM_WORKDIR = """
import sys
from absl import logging
from i2vgen_jax import train
from i2vgen_jax.stored import run_config
config = run_config.read(sys.argv[1])
config.train.stop_at = 0
logging.set_verbosity(logging.INFO)
sys.exit(train.train(config, sys.argv[1]))
"""
# `sample`, but for the colours of its mp4: that version wrote FFmpeg's default, BT.601.
SAMPLE = """
import io, runpy, sys
import av
from i2vgen_jax.sampling import video_file
def encode(video_FHWC, fps):
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=int(fps), options={'crf': '18'})
    stream.height, stream.width = video_FHWC.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for frame_HWC in video_FHWC:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format='rgb24')))
    container.mux(stream.encode())
  return buffer.getvalue()
video_file.ENCODERS['.mp4'] = encode
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """All that the archive holds, as the folder that its relative paths start from."""
  with tarfile.open(ARCHIVE) as tar:
    safely = {'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}  # From 3.11.4 on.
    tar.extractall(tmp_path, **safely)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def expected(folder):
  return json.loads((folder / 'expected' / 'expected.json').read_text())


def run(folder, *arguments):
  """A command within the folder, to its end; returns what it logged."""
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env=runs.environment(),
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done.stderr


def check_resumed(folder, expected, name, log):
  """The log, the metrics and the last state of a run that went on to its end."""
  stop_at, num_steps = make_workdirs.STOPS[name]
  assert f'Resuming at step {stop_at} of {num_steps}' in log
  assert 'Going on with what is there now' not in log  # The data is that of the checkpoint.
  rows = make_workdirs.metrics(folder / name)
  assert sorted(rows) == list(range(1, num_steps + 1))  # Each step once, none left out.
  for step, row in expected[name]['metrics'].items():
    found = rows[int(step)]
    assert found.pop('bucket') == row.pop('bucket'), f'step {step}'
    assert found == pytest.approx(row, rel=1e-5), f'step {step}'
    assert found['loss'] == pytest.approx(row['loss'], rel=1e-6), f'step {step}'
  norms = make_workdirs.norms(folder / name, num_steps)
  assert norms.keys() - expected[name]['norms'].keys() == {'guard'}  # That version had none.
  del norms['guard']
  assert norms == pytest.approx(expected[name]['norms'], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['base', 'refine'])
def test_a_run_goes_on_from_a_config_file_to_the_same_losses_and_state(folder, expected, name):
  (folder / 'config.py').write_text(CONFIG_FILE.format(name=name))
  command = ('-m', 'i2vgen_jax.train', '--config=config.py', f'--workdir={name}')
  check_resumed(folder, expected, name, run(folder, *command))


@pytest.mark.slow
def test_a_run_from_a_cache_goes_on_with_the_config_of_its_workdir(folder, expected):
  check_resumed(folder, expected, 'cached', run(folder, '-c', FROM_WORKDIR, 'cached'))


def read_frames(path):
  with av.open(str(path)) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  return np.stack(frames).astype(float)


# Both runs have a part in the second.
@pytest.mark.parametrize('name', [pytest.param('base.mp4', marks=pytest.mark.slow), 'refine.mp4'])
def test_a_run_samples_the_same_video(folder, name):
  run(folder, '-c', SAMPLE, *make_workdirs.sample_arguments(make_workdirs.SAMPLES[name], name))
  found, wanted = read_frames(folder / name), read_frames(folder / 'expected' / name)
  assert found.shape == wanted.shape
  # Another kind of CPU rounds otherwise, and random weights and the codec enlarge that: up to one
  # grey level of 255 was seen. Videos of noise of their own lie some fifty apart.
  apart = np.abs(wanted - wanted.mean()).mean()
  assert np.abs(found - wanted).mean() < 0.05 * apart, np.abs(found - wanted).mean()


def test_a_run_exports_the_same_files_and_a_card(folder, expected):
  """To diffusers; VGen's own code computes another model of groups that are not 32."""
  run(folder, *make_workdirs.export_arguments(*make_workdirs.EXPORTS['diffusers'], 'diffusers'))
  (folder / 'diffusers' / 'README.md').unlink()
  assert make_workdirs.digests(folder / 'diffusers') == expected['exports']['diffusers']


@pytest.fixture
def older(folder):
  """The base run, as if started before there were the fields of old_configs.ADDED."""
  path = folder / 'base' / 'config.json'
  config = json.loads(path.read_text())
  for name in old_configs.ADDED:
    block, field = name.split('.')
    config.get(block, {}).pop(field, None)
  path.write_text(json.dumps(config))
  return folder / 'base'


def test_fields_that_an_older_config_lacks_are_named_and_taken(older, caplog):
  absl_logging.use_absl_handler()
  with caplog.at_level(logging.WARNING, 'absl'):
    absl_logging.get_absl_logger().propagate = True
    config = run_config.read(older)
  assert config.unet.free_u == [] and config.data.cache == ''
  for name, value in old_configs.ADDED.items():
    assert f'{name}={value!r}' in caplog.text


def test_an_older_run_goes_on_only_with_what_it_was_without_the_field(older):
  config = make_workdirs.base()
  run_config.check(older, config)
  config.unet.row_margin = 1
  with pytest.raises(ValueError, match='another config: unet.row_margin: 0 -> 1. Use'):
    run_config.check(older, config)
