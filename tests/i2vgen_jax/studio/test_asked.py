"""A form is the command line of `sample`, parsed by its flags and refused in its words."""

import io
import shlex

import numpy as np
import PIL.Image
import pytest

from i2vgen_jax.studio import asked as asked_lib
from i2vgen_jax.studio import runs as runs_lib


@pytest.fixture(scope='module')
def runs(finished_run):
  return runs_lib.Runs([str(finished_run)])


def png(mode='RGB', size=(40, 30)):
  buffer = io.BytesIO()
  PIL.Image.new(mode, size, 'red').save(buffer, 'PNG')
  return buffer.getvalue()


PICTURE = asked_lib.Upload('a red "one".png', png())


def read(runs, tmp_path, sent=PICTURE, **fields):
  uploads = {'image': sent} if sent else {}
  return asked_lib.read({'prompt': 'a red circle'} | fields, uploads, runs, tmp_path)


def test_a_form_becomes_the_command_that_makes_the_same(runs, tmp_path, finished_run):
  [one] = read(runs, tmp_path, prompt=" it's\r\nred ", seed='7', guidance='2.5', steps='', fps='4')
  words = shlex.split(one.command)
  assert words[:3] == ['python', '-m', 'i2vgen_jax.sample']
  assert set(words[3:]) == {
    f'--workdir={finished_run}', '--image=a red "one".png', "--prompt=it's red", '--seed=7',
    '--guidance=2.5', '--fps=4', '--step=6', '--output=video.mp4',
  }  # fmt: skip
  assert (one.given.seed, one.given.guidance, one.given.steps) == (7, 2.5, None)
  assert one.image == (PICTURE.data, 30, 40) and not one.notes


def test_two_are_compared_by_what_differs(runs, tmp_path):
  one, other = read(
    runs, tmp_path, compare='1', seed='1', other_seed='2', other_step='3', other_weights='raw'
  )
  assert (one.given.seed, one.given.step, one.given.weights) == (1, 6, 'ema')
  assert (other.given.seed, other.given.step, other.given.weights) == (2, 3, 'raw')
  assert len(read(runs, tmp_path, other_seed='2')) == 1


def test_words_that_are_cut_off_are_told(runs, tmp_path):
  [one] = read(runs, tmp_path, prompt='a red circle moves left and ' * 9)
  assert len(one.notes) == 1 and one.notes[0].startswith('--prompt is cut: the model reads ')
  [one] = read(runs, tmp_path, prompt=' ')
  assert one.notes == ('--prompt is empty: the model gets no text to follow.',)


@pytest.mark.parametrize(
  'fields, says',
  [
    (dict(width='65'), 'size 65x32 must be multiples of 8 pixels, the VAE factor: 64x32'),
    (dict(frames='0'), 'frames=0 must be at least 1'),
    (dict(frames='-1'), 'frames=-1 must be at least 1'),
    (dict(frames='4000'), 'more than 8 times the pixels'),
    (dict(seed='abc'), '--seed=abc must be a whole number'),
    (dict(seed='-1'), '--seed=-1'),
    (dict(fps='0'), 'fps=0.0 must be above 0'),
    (dict(guidance='nan'), '--guidance=nan must be a number'),
    (dict(guidance='inf'), 'guidance_scale=inf must lie in'),
    (dict(sampler='euler'), "sampler='euler' is unknown; known: ddim"),
    (dict(steps='99999'), 'num_steps=99999'),
    (dict(step='9'), 'holds no complete checkpoint 9; there are'),
    (dict(weights='other'), '--weights=other'),
    (dict(run='1'), 'run=1 is none of the 1 runs'),
    (dict(prompt='x' * 2001), 'prompt has 2001 characters'),
  ],
)
def test_a_mistake_is_told_in_the_words_of_the_command(fields, says, runs, tmp_path):
  with pytest.raises(ValueError) as error:
    read(runs, tmp_path, **fields)
  assert says in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
  'data, says',
  [
    (b'# i2vgen_jax\n', 'cannot be read: image_format: it begins with'),
    (b'', 'cannot be read: image: the file is empty'),
    (png()[:60], 'cannot be read'),
    (np.random.default_rng(0).bytes(asked_lib.MAX_BYTES + 1), 'at most 20,000,000 are taken'),
  ],
)
def test_a_bad_picture_is_told_by_its_name(data, says, runs, tmp_path):
  with pytest.raises(ValueError) as error:
    read(runs, tmp_path, asked_lib.Upload('bad.png', data))
  assert says in str(error.value) and 'bad.png' in str(error.value)
  with pytest.raises(ValueError, match='Give a picture'):
    read(runs, tmp_path, sent=None)


@pytest.mark.parametrize(
  'fields',
  [
    dict(last_image='/etc/passwd'), dict(image='/etc/passwd'), dict(workdir='/etc'),
    dict(list='/etc/passwd', output='/etc/passwd'), dict(condition='a=/etc/passwd'),
    dict(refine='1', refine_workdir='/etc'),
  ],
)  # fmt: skip
def test_no_field_names_a_file_of_the_machine(fields, runs, tmp_path):
  """What the page has no field for is not read."""
  [one] = read(runs, tmp_path, **fields)
  assert '/etc' not in one.command and not one.more


def test_a_last_frame_is_a_file_that_was_sent_and_never_a_path(runs, tmp_path, monkeypatch):
  flag = runs_lib.Flag('last_image', '', is_file=True)
  monkeypatch.setattr(runs, 'controls', lambda number: [flag])
  fields, last = {'last_image': '/etc/passwd'}, {'last_image': PICTURE}
  assert asked_lib._more(fields, {}, runs, tmp_path) == ({}, [])
  more, shown = asked_lib._more(fields, last, runs, tmp_path)
  assert shown == ['--last_image=a red "one".png']
  assert (tmp_path / 'last_image').read_bytes() == PICTURE.data
  assert more == {'last_image': str(tmp_path / 'last_image')}


@pytest.mark.parametrize(
  'given, name',
  [('../../etc/passwd', 'passwd'), (r'C:\pictures\a.png', 'a.png'), ('..', '..'),
   ('a\x1b[1m.png', r'a\x1b[1m.png'), ('x' * 99 + '.png', 'x' * 76 + '.png'), ('/', 'picture')],
)  # fmt: skip
def test_the_name_of_a_file_is_for_people_alone(given, name):
  assert asked_lib.file_name(given) == name
