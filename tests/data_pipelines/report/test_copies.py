"""Copies are shown side by side: the one that stays first, and why it is the better one."""

import dataclasses
import pathlib
import shutil

import pytest

from data_pipelines.corpus import reader
from data_pipelines.curate import command as curate
from data_pipelines.report import copies
from tests.data_pipelines.report.pictured import RULES, gallery_of, ingested, scene


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
  """Scene 1 in three sizes and qualities, and scene 2, which is held out, in two."""
  root = tmp_path_factory.mktemp('copied')
  for folder in ('train', 'val'):
    (root / 'in' / folder).mkdir(parents=True)
  scene(1).save(root / 'in/train/coarse.jpg', quality=40)
  scene(1).save(root / 'in/train/fine.jpg', quality=95)
  scene(1, 160).save(root / 'in/train/small.jpg', quality=95)
  scene(2, 320).save(root / 'in/train/large.jpg')
  scene(2).save(root / 'in/val/held.jpg')
  scene(3).save(root / 'in/train/other.jpg')
  return ingested(root / 'in', str(root / 'corpus'))


def drawn_copies(directory, num_groups=9):
  gallery = gallery_of(directory)
  starts = reader.Corpora(directory, 'train').corpus_starts
  found = copies.find(gallery.table, starts, num_groups)
  groups = copies.draw(gallery, {'corpus': directory}, found['groups'])
  gallery.strips.close()
  return found, groups


def test_of_copies_the_one_that_stays_is_first_and_the_others_say_why_not(copied):
  found, [large, held] = drawn_copies(copied)
  assert found['num_groups'] == 2 and found['num_rows'] == 4
  names = [pathlib.Path(example['key']).stem for example in large['examples']]
  assert names == ['fine', 'coarse', 'small']
  assert [example['label'] for example in large['examples']] == ['kept', 'dropped', 'dropped']
  assert [example['keep'] for example in large['examples']] == [True, False, False]
  _, coarse, small = [example['why'] for example in large['examples']]
  assert coarse.startswith('the better one has more bytes: more bytes per pixel: ')
  assert small == 'the better one has more pixels: 240×240, this one 160×160'
  assert all(example['pictures'] for group in (large, held) for example in group['examples'])


def test_the_better_one_of_a_copy_that_is_alone_is_shown_though_it_is_held_out(copied):
  _, [_, held] = drawn_copies(copied)
  assert [example['label'] for example in held['examples']] == ['held out', 'dropped']
  assert held['examples'][0]['key'].endswith('held.jpg') and held['num_rows'] == 1
  assert held['examples'][1]['why'].startswith('the better one is held out')


def test_where_copies_stay_the_better_one_is_first_all_the_same(copied, tmp_path):
  directory = str(shutil.copytree(copied, tmp_path / 'corpus'))
  rules = dataclasses.replace(RULES, keep_duplicates=True)
  curate.curate(directory, rules, allow_no_denylist='ours', num_processes=1)
  _, [large] = drawn_copies(directory)
  names = [pathlib.Path(example['key']).stem for example in large['examples']]
  assert names == ['fine', 'coarse', 'small']
  assert [example['label'] for example in large['examples']] == ['kept', 'kept too', 'kept too']
  assert not any(example['why'] for example in large['examples'])


def member(**values):
  known = dict(height=100, width=100, num_bytes=1000, num_frames=1, duration=0.0, split='')
  return known | dict(reject=['duplicate'], keep=False) | values


@pytest.mark.parametrize(
  ('other', 'why'),
  [
    (member(), 'as many pixels and bytes: the first one stays'),
    (member(height=50), 'the better one has more pixels: 100×100, this one 100×50'),
    (member(height=300, reject=['motion', 'duplicate']), 'this one breaks motion'),
    (
      member(num_bytes=500),
      'the better one has more bytes: more bytes per pixel: 0.1, this one 0.05',
    ),
    (member(reject=['text']), 'breaks text'),
    (member(reject=[], keep=True), ''),
  ],
)  # fmt: skip
def test_what_made_the_better_one_better_is_said(other, why):
  assert copies.why_better(member(reject=[], keep=True), other) == why


def test_a_longer_copy_is_said_to_be_longer():
  best = member(reject=[], keep=True, num_bytes=2000, num_frames=20, duration=2.0)
  text = copies.why_better(best, member(num_frames=10, duration=1.0))
  assert text == 'the better one has more bytes: it is longer: 2 s, this one 1 s'


def test_a_shot_that_breaks_no_rule_makes_a_copy_as_good_as_another():
  spans = [dict(reject=['motion', 'duplicate']), dict(reject=['duplicate'])]
  other = member(height=50, reject=['motion', 'duplicate'], spans=spans)
  assert copies.why_better(member(reject=[]), other).startswith('the better one has more pixels')
