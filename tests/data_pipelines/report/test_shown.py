"""Cells, shots, what detectors saw and versions are shown as they are."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.corpus import reader, sidecars
from data_pipelines.index import command as index
from data_pipelines.report import cells, examples, shots, versions
from data_pipelines.report import command as report
from tests.data_pipelines.curate.test_curate import pan
from tests.data_pipelines.report.pictured import (
  distance,
  gallery_of,
  ingested,
  pictures_of,
  rewrite,
  scene,
  tinted,
)


@pytest.fixture(scope='module')
def film(tmp_path_factory):
  """A video of a slow red shot and a fast blue one."""
  root = tmp_path_factory.mktemp('film')
  (root / 'in').mkdir()
  frames = np.concatenate([tinted(1, 0, 0.5), tinted(2, 2, 6.0)])
  (root / 'in/film.mp4').write_bytes(demo_corpus.encode_video(frames, 24))
  return ingested(root / 'in', str(root / 'corpus'), validation_fraction=0.0)


def colour_of(data_uri):
  [picture] = pictures_of(f'{data_uri}"')
  return int(picture.mean(axis=(0, 1)).argmax())


def test_a_cell_shows_the_shots_that_it_draws_and_not_the_longest_of_their_videos(film, tmp_path):
  index.index({'film': film}, str(tmp_path / 'index'), quantiles=2, axes=['motion'])
  found = report.report({'film': film}, str(tmp_path / 'page.html'), str(tmp_path / 'index'))
  [grid] = found['maps']
  assert [cell['place'][0] for cell in grid['cells']] == grid['rows'] and len(grid['rows']) == 2
  slow, fast = [cell['examples'] for cell in grid['cells']]
  assert [colour_of(example['pictures'][0]) for [example] in (slow, fast)] == [0, 2]
  assert slow[0]['motion'] < fast[0]['motion'] and slow[0]['span_end'] <= 1


def manifest_of(levels, **more):
  """Of an index with cells {name: rows}."""
  places = np.cumsum([0, *levels.values()]).tolist()
  found = [
    dict(name=name, media=name.split()[0], places=[places[i], places[i + 1]])
    for i, name in enumerate(levels)
  ]
  balance = dict(alpha=0.0, max_epochs=0.0, num_draws=0, unknown_weight=1.0)
  return dict(cells=found, num_rows=places[-1], balance=balance, **more)


def test_a_map_lies_over_the_two_scores_of_most_levels_and_names_the_others():
  manifest = manifest_of(
    {'video tone=0 motion=1 pan=2': 4, 'video tone=0 motion=0 pan=1': 3,
     'video tone=1 motion=2 pan=0': 2, 'video tone=1 motion=unknown pan=3': 1},
    axes=['tone', 'motion', 'pan'],
    edges=dict(tone=[1.0], motion=[0.1, 0.2], pan=[1.0, 2.0, 3.0]),
  )  # fmt: skip
  bright, dark = cells.maps(manifest, {})
  assert bright['axes'] == ['motion, diagonals/s', 'pan, diagonals/s']
  assert bright['title'] == 'videos, tone below 1' and dark['title'] == 'videos, tone from 1'
  assert bright['rows'] == ['below 0.1', '0.1 to 0.2'] and bright['columns'] == ['1 to 2', '2 to 3']
  assert dark['rows'] == ['from 0.2', 'unknown'] and dark['columns'] == ['below 1', 'from 3']
  assert [cell['share'] for cell in bright['cells'] + dark['cells']] == [0.4, 0.3, 0.2, 0.1]
  assert len({cell['anchor'] for cell in bright['cells'] + dark['cells']}) == 4


@pytest.mark.parametrize('axes', [[], ['motion']])
def test_an_index_of_one_score_or_none_has_a_map_too(axes):
  name = ' '.join(['image', *(f'{axis}=0' for axis in axes)])
  [grid] = cells.maps(manifest_of({name: 3}, axes=axes, edges=dict.fromkeys(axes, [])), {})
  [cell] = grid['cells']
  assert cell['place'] == [grid['rows'][0], grid['columns'][0]] == ['all', 'all']
  assert cell['count'] == 3 and cell['drawn'] == 1


def test_each_cut_has_the_frames_of_the_shots_on_its_sides(film):
  gallery = gallery_of(film)
  [video] = shots.of_videos(gallery, 3)
  gallery.strips.close()
  assert [colour_of(shot['picture']) for shot in video['shots']] == [0, 2]
  assert [part[:2] for part in video['parts']] == [
    (shot['start'], shot['end']) for shot in video['shots']
  ]
  [cut] = video['at_cuts']
  assert cut['time'] == pytest.approx(1.0) and video['num_more'] == 0
  assert [colour_of(picture) for picture in cut['pictures']] == [0, 2]
  sides = pictures_of(''.join(f'{picture}"' for picture in cut['pictures']))
  fast = np.split(sides[1], 2, axis=1)
  assert distance(*fast) > 2 * distance(*np.split(sides[0], 2, axis=1))  # Frames are neighbours.


def test_what_detectors_saw_is_told_beside_the_frames_they_looked_at(tmp_path):
  (tmp_path / 'in').mkdir()
  for number in range(3):
    scene(number, 256).save(tmp_path / f'in/{number}.png')
  directory = ingested(tmp_path / 'in', str(tmp_path / 'corpus'), validation_fraction=0.0)
  rewrite(
    directory, text_area=0.25, text='SALE <b>\nnow', text_confidence=0.97, faces=1, face_area=0.04
  )
  found = report.report({'mine': directory}, str(tmp_path / 'page.html'))
  assert [group['title'] for group in found['seen']] == ['text', 'faces']
  assert [len(group['examples']) for group in found['seen']] == [1, 1]
  text = (tmp_path / 'page.html').read_text()
  part = text[text.index('<h2 id="seen"') : text.index('<h2 id="dropped"')]
  assert 'SALE &lt;b&gt;<br>now<br>' in part and 'certainty 0.97' in part
  assert '25.0 % of the frame' in part and '4.0 % of the frame</b>, 1 face' in part
  assert {picture.shape[0] for picture in pictures_of(part)} == {examples.SEEN_HEIGHT}
  # Half of the side is a quarter of the square.
  assert 'width="17.0" height="17.0"' in part


def sidecars_of(directory):
  corpora = reader.Corpora({'mine': directory}, 'train')
  return sidecars.Sidecars(corpora), corpora


def test_versions_tell_what_each_added_and_sum_to_the_corpus(tmp_path):
  (tmp_path / 'in').mkdir()
  for number in range(70):  # Shards are of 64 files.
    scene(number, 32).save(tmp_path / f'in/{number:02d}.jpg')
  frames = pan(3, 49, 1.0)
  (tmp_path / 'in/zz.mp4').write_bytes(demo_corpus.encode_video(frames, 24))
  directory = ingested(tmp_path / 'in', str(tmp_path / 'corpus'), validation_fraction=0.0)
  path = pathlib.Path(directory) / 'manifest.json'
  manifest = json.loads(path.read_text())
  [alone] = versions.added(*sidecars_of(directory))['mine']
  assert alone['num_by_media'] == dict(video=1, image=70)
  assert alone['fingerprint'] == manifest['fingerprint'] and alone['num_rejected'] == 0
  manifest['versions'] = [
    dict(fingerprint='aa', shards=dict(train=1)),
    dict(fingerprint='bb', shards=dict(train=2), num_listed=9, num_rejected=2, num_vanished=1),
  ]
  path.write_text(json.dumps(manifest))
  first, second = versions.added(*sidecars_of(directory))['mine']
  assert first['num_by_media'] == dict(video=0, image=64) and first['hours'] == 0
  assert second['num_by_media'] == dict(video=1, image=6)
  assert second['hours'] == alone['hours'] == pytest.approx(2 / 3600)
  assert [second['num_listed'], second['num_rejected']] == [9, 2] and first['num_listed'] is None
  assert [first['notes'], second['notes']] == [[], ['1 no longer in the input']]
  assert first['gigabytes'] + second['gigabytes'] == pytest.approx(alone['gigabytes'])
  for added in pathlib.Path(directory).glob('sidecar/curate/train-00001*'):
    added.unlink()  # As if curate had not seen the second version yet.
  report.report({'mine': directory}, str(tmp_path / 'page.html'), num_examples=2)
  assert '<code>aa</code>' in (tmp_path / 'page.html').read_text()
