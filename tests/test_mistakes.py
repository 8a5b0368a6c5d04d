"""A mistake ends in one line with the value and the way out, before anything compiles."""

import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import PIL.Image
import pytest

from i2vgen_jax.sampling import video_file
from tests import conftest, mistakes, runs

LOGGED = re.compile(r'[IW]\d{4} ')  # A line of the log.


@pytest.fixture(scope='session')
def places(finished_run, demo_corpus, tmp_path_factory):
  """What the placeholders of a command line stand for."""

  def make(folder):
    (folder / 'raw').mkdir(parents=True)
    (folder / 'empty').mkdir()
    PIL.Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save(folder / 'image.png')
    (folder / 'list.txt').write_text('image.png|||a red circle moves left\n')
    video_file.write(folder / 'raw' / 'a.mp4', np.zeros((8, 32, 32, 3), np.uint8), 8)
    (folder / 'raw' / 'a.txt').write_text('a black square')
    shutil.copytree(finished_run, folder / 'run')
    ignored = shutil.ignore_patterns('checkpoints', 'frozen')
    for name in ('refines', 'failed', 'moved'):
      shutil.copytree(finished_run, folder / name, ignore=ignored)
    (folder / 'finetuned').mkdir()
    (folder / 'finetuned' / 'run').symlink_to('../run')
    config = json.loads((folder / 'refines' / 'config.json').read_text())
    config['refine'].update(levels=500, height=16, width=16)
    (folder / 'refines' / 'config.json').write_text(json.dumps(config))
    config['refine'].update(levels=0)
    config['data']['directories'] = dict(videos='/gone/videos')
    (folder / 'moved' / 'config.json').write_text(json.dumps(config))

  folder = conftest.made_once(tmp_path_factory, 'mistakes', make)
  return dict(
    corpus=demo_corpus,
    run=folder / 'run',
    refines=folder / 'refines',
    failed=folder / 'failed',
    moved=folder / 'moved',
    finetuned=folder / 'finetuned',
    raw=folder / 'raw',
    empty=folder / 'empty',
    clip=folder / 'raw' / 'a.mp4',
    image=folder / 'image.png',
    list=folder / 'list.txt',
    new=folder / 'new',
  )


@pytest.fixture(scope='session')
def ended(places, tmp_path_factory):
  """Name -> (exit code, stdout, stderr)."""

  def make(folder):
    lines = {
      name: [word.format(**places) for word in shlex.split(row.line)]
      for name, row in mistakes.ROWS.items()
    }
    scripts = {name: lines.pop(name) for name in list(lines) if lines[name][0].endswith('.sh')}
    done = runs.commands(lines, until_compilation=True)
    for name, line in scripts.items():
      made = subprocess.run(['bash', *line], cwd=runs.ROOT, capture_output=True, text=True)
      done[name] = (made.returncode, made.stdout, made.stderr)
    folder.mkdir()
    (folder / 'ended.json').write_text(json.dumps(done))

  folder = conftest.made_once(tmp_path_factory, 'mistakes_ended', make)
  return json.loads((folder / 'ended.json').read_text())


@pytest.mark.parametrize('name', mistakes.ROWS)
def test_a_mistake_is_refused_in_one_line_or_accepted_for_a_reason(name, ended, places):
  row, (code, _, stderr) = mistakes.ROWS[name], ended[name]
  assert code == row.code, stderr[-3000:]
  assert bool(row.says) != bool(row.why)
  lines = [line for line in stderr.splitlines() if not LOGGED.match(line)]
  if row.why:
    assert not any(line.startswith('error: ') for line in lines), stderr
    return
  assert len(lines) == 1 and lines[0].startswith('error: '), stderr[-3000:]
  assert '[Errno' not in lines[0]
  for text in row.says:
    assert text.format(**places) in lines[0]


def test_nothing_is_left_by_what_is_refused(ended, places):
  """All of them name the same new path; what is accepted ends before it writes."""
  assert ended and not list(places['new'].parent.glob(f'{places["new"].name}*'))


def test_there_are_as_many_rows_as_were_tried_and_forty_more():
  assert len(mistakes.LISTED) == 87 and len(mistakes.MORE) >= 40
  assert all(f'{number:02d}' == name[:2] for number, name in enumerate(mistakes.LISTED, 1))
