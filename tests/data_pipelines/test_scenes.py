"""Scenes of the demo corpus: their captions, their truth and their pixels say the same."""

import colorsys
import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.demo_corpus import captions, kinds, outlines, painting, scenes, staging
from data_pipelines.demo_corpus.captions import Description, Words
from data_pipelines.demo_corpus.scenes import Scene, Thing
from data_pipelines.ingest import command as ingest
from tests import corpora

SPLITS = {'val': 1_000_000, 'sealed': 2_000_000}
TRAINED = [staging.draw(0, number) for number in range(600)]


@pytest.fixture(scope='module')
def held_out():
  return {s: [staging.draw(0, first + i) for i in range(200)] for s, first in SPLITS.items()}


def test_captions_are_read_back_as_what_was_said():
  rng = np.random.default_rng(0)
  known, written = set(captions.vocabulary()), set()
  for scene in TRAINED:
    caption = captions.write(scene.describe(), rng)
    assert captions.parse(caption) == scene.describe(), caption
    assert len(caption.split()) <= captions.MAX_WORDS
    written |= set(caption.split())
  assert written <= known and len(known - written) <= 2, known - written


@pytest.mark.parametrize(
  ('caption', 'description'),
  [
    ('a red star', Description((Words('red', 'star'),))),
    (
      'a red circle moves left behind a green square',
      Description((Words('red', 'circle', 'left'), Words('green', 'square')), relation='behind'),
    ),
    (
      'the camera zooms in on a blue ring',
      Description((Words('blue', 'ring'),), camera='in'),
    ),
    (
      'a blue ring slowly gets bigger and a pink heart spins clockwise fast',
      Description(
        (Words('blue', 'ring', 'grows', 'slowly'), Words('pink', 'heart', 'clockwise', 'fast'))
      ),
    ),
  ],
)  # fmt: skip
def test_captions_mean_what_they_say(caption, description):
  assert captions.parse(caption) == description


@pytest.mark.parametrize(
  'caption',
  ['', 'a dog runs', 'a red moves left', 'a circle moves', 'a red star moves left right',
   'a red star moves fast slowly', 'left a red star', 'the camera pans left'],
)  # fmt: skip
def test_other_captions_are_refused(caption):
  with pytest.raises(ValueError, match='is no scene of the demo corpus'):
    captions.parse(caption)


def test_training_shows_no_combination_that_is_held_out(held_out):
  kept = {split: scenes.held_out_combinations(split) for split in SPLITS}
  assert min(map(len, kept.values())) > 30 and not kept['val'] & kept['sealed']
  assert kept['val'] | kept['sealed'] < set(scenes.combinations())
  for scene in TRAINED:
    assert not {t.combination for t in scene.things} & (kept['val'] | kept['sealed'])
  for split, drawn in held_out.items():
    unseen = [scene.things[0].combination in kept[split] for scene in drawn]
    assert sum(unseen) == 100
    other = kept['sealed' if split == 'val' else 'val']
    assert not {t.combination for scene in drawn for t in scene.things} & other


def test_each_two_of_a_held_out_combination_are_trained_together():
  every = set(scenes.combinations())
  kept = every - scenes.held_out_combinations('val') - scenes.held_out_combinations('sealed')
  for i, j in itertools.combinations(range(3), 2):
    assert {(c[i], c[j]) for c in kept} == {(c[i], c[j]) for c in every}


def test_no_clip_is_in_two_splits(held_out):
  drawn = [*TRAINED, *held_out['val'], *held_out['sealed']]
  assert len(set(drawn)) == len(drawn) and staging.draw(0, 7) == TRAINED[7] != staging.draw(1, 7)


def test_one_shape_with_one_movement_is_the_most_frequent():
  alone = [s for s in TRAINED if len(s.things) == 1 and s.camera == 'still']
  assert 0.55 < len(alone) / len(TRAINED) < 0.65
  for names, of in (
    (captions.MOTIONS, lambda s: s.things[0].motion),
    (captions.SPEEDS, lambda s: s.things[0].speed),
    (captions.COLORS, lambda s: s.things[0].color),
    (captions.SHAPES, lambda s: s.things[0].shape),
  ):
    counts = [sum(of(scene) == name for scene in alone) for name in names]
    assert min(counts) > len(alone) / len(names) / 3, dict(zip(names, counts, strict=True))
  for names, of in (
    (captions.CAMERAS, lambda s: s.camera),
    (captions.RELATIONS, lambda s: s.relation),
    (scenes.BACKDROPS, lambda s: s.backdrop),
  ):
    assert {*names} <= {of(scene) for scene in TRAINED}


def test_a_first_frame_does_not_tell_what_one_thing_will_do():
  """Any motion and speed would have been staged at the same place."""
  alone = [s for s in TRAINED if len(s.things) == 1]
  for scene in alone[:150]:
    [thing] = scene.things
    moves = captions.MOTIONS if scene.camera == 'still' else captions.MOVES
    speeds = captions.SPEEDS if scene.camera == 'still' else ('',)
    for motion, speed in itertools.product(moves, speeds):
      other = dataclasses.replace(thing, motion=motion, speed=speed)
      assert staging.fits(dataclasses.replace(scene, things=(other,))), (scene, motion, speed)
  first = painting.paint_clip(alone[0], 32, 1)
  other = dataclasses.replace(alone[0].things[0], motion='grows', speed='fast')
  np.testing.assert_array_equal(
    painting.paint_clip(dataclasses.replace(alone[0], things=(other,)), 32, 1), first
  )


def centers(frames, color):
  """Centroid (F, 2) of what has a colour's hue, shares of the side."""
  rgb = frames.astype(float) - frames.mean(-1, keepdims=True)
  wanted = np.array(captions.COLORS[color]) - np.mean(captions.COLORS[color])
  weight = np.clip(rgb @ wanted / (wanted @ wanted) - 0.15, 0, None)
  grid = (np.arange(frames.shape[1]) + 0.5) / frames.shape[1]
  x, y = (weight.sum(1) * grid).sum(1), (weight.sum(2) * grid).sum(1)
  return np.stack([x, y], -1) / weight.sum((1, 2))[:, None]


@pytest.mark.parametrize('camera', ['still', 'left', 'down', 'in', 'out'])
@pytest.mark.parametrize('shape', captions.SHAPES)
def test_pixels_are_where_the_truth_says_to_a_tenth_of_a_pixel(shape, camera):
  thing = Thing('blue', shape, 'right', 'slowly', 0.52, 0.47, 0.12)
  scene = Scene((thing,), camera)
  found = centers(painting.paint_clip(scene), 'blue')
  true = [[scene.at(i / 16)[0].x, scene.at(i / 16)[0].y] for i in range(32)]
  # Light and shade make one side of a shape weigh more: the same in all frames.
  error = (found - true) / [scene.window(i / 16)[2:] * 2 for i in range(32)]
  assert np.abs(error - error.mean(0)).max() < 0.1 / 128
  assert np.abs(found - true).max() < 1.5 / 128


def test_outlines_reach_no_farther_than_they_say_and_keep_their_symmetry():
  x, y = np.meshgrid(*[np.linspace(-1.5, 1.5, 301)] * 2)
  for shape, turns in outlines.SYMMETRY.items():
    inside = outlines.distance(shape, x, y) < 0
    assert np.hypot(x, y)[inside].max() <= outlines.REACH
    assert np.abs([x[inside].mean(), y[inside].mean()]).max() < 0.005
    turned = outlines.distance(shape, x, y, 2 * np.pi / turns if turns else 1.0)
    np.testing.assert_allclose(turned, outlines.distance(shape, x, y), atol=1e-6)
    if turns:  # Clockwise, as one sees it with y downwards.
      quarter = outlines.distance(shape, x, y, np.pi / 2)
      np.testing.assert_allclose(quarter, np.rot90(outlines.distance(shape, x, y), -1), atol=1e-6)


def test_colours_are_told_apart_by_hue_and_from_any_backdrop():
  hues = sorted(colorsys.rgb_to_hsv(*rgb)[0] * 360 for rgb in captions.COLORS.values())
  assert min(b - a for a, b in itertools.pairwise([*hues, hues[0] + 360])) > 37
  for kind, seed in itertools.product(scenes.BACKDROPS, range(30)):
    scene = Scene((), backdrop=kind, backdrop_seed=seed)
    assert np.ptp(np.asarray(painting.paint_backdrop(scene, 32)), axis=-1).max() <= 40
  assert min(np.ptp(rgb) for rgb in captions.COLORS.values()) >= 115


def write(folder, *flags):
  commands.main(['demo', '--kind=scenes', f'--output={folder}', *flags])
  return folder


def digests(folder):
  files = sorted(path for path in folder.rglob('*') if path.is_file())
  return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).digest() for p in files}


FEW = '--num_videos=3', '--num_validation=5', '--num_images=4'


def test_a_written_corpus_has_its_truth_beside_it_and_is_ingested(tmp_path):
  one = write(tmp_path / 'one', *FEW, '--num_processes=1')
  two = write(tmp_path / 'two', *FEW, '--num_processes=2')
  assert digests(one) == digests(two) and (one / 'sheet.png').exists()
  for split, first, count in (('train', 0, 3), ('val', 1_000_000, 5)):
    rows = (one / 'webvid' / f'results_demo_{split}.csv').read_text().splitlines()[1:]
    truths = [json.loads(line) for line in (one / 'truth' / f'{split}.jsonl').open()]
    assert len(rows) == len(truths) == count
    for i, (row, truth) in enumerate(zip(rows, truths, strict=True)):
      assert (
        row
        == f'{first + i:07d},,PT00H00M02S,{first:06d}_{first + count - 1:06d},{truth["caption"]}'
      )
      assert truth['videoid'] == f'{first + i:07d}'
      scene = staging.draw(0, first + i)
      assert json.loads(json.dumps(scene.truth())).items() <= truth.items()
  ingest.ingest(str(one / 'webvid'), str(tmp_path / 'corpus'), num_processes=1)
  splits = json.loads((tmp_path / 'corpus' / 'manifest.json').read_text())['splits']
  assert {name: split['num_examples'] for name, split in splits.items()} == dict(
    train=3, validation=5
  )
  with corpora.ends_with_2('other arguments'):
    commands.main(['demo', f'--output={one}', *FEW])


def test_a_sealed_corpus_is_held_out_videos_of_its_own(tmp_path):
  sealed = write(tmp_path / 'sealed', '--sealed', '--num_validation=2', '--num_processes=1')
  names = set(digests(sealed))
  videos = {f'webvid/videos/2000000_2000001/200000{i}.mp4' for i in range(2)}
  assert names == videos | {'demo.json', 'webvid/results_demo_val.csv', 'truth/val.jsonl'}
  manifest = ingest.ingest(str(sealed / 'webvid'), str(tmp_path / 'corpus'), num_processes=1)
  assert [*manifest['splits']] == ['validation'] and manifest['num_listed'] == 2


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--kind=shapes', '--sealed'], "the kind 'shapes' has no sealed clips: add --kind=scenes"),
    (['--sealed', '--num_videos=3'], 'num_videos=3 should be 0'),
    (['--num_videos=1000001'], 'num_videos=1000001 should be <= 1000000'),
    (['--num_validation=-1'], 'num_validation=-1 should be >= 0'),
    (['--kind=movies'], "invalid choice: 'movies'"),
  ],
)
@pytest.mark.parametrize('dry', [[], ['--dry_run']])
def test_mistakes_are_named_and_nothing_is_written(tmp_path, flags, said, dry):
  with corpora.ends_with_2(said):
    write(tmp_path / 'demo', *flags, *dry)
  assert not list(tmp_path.iterdir())


def test_pictures_show_what_they_say():
  for number in range(60):
    frames, caption, truth = kinds.KINDS['scenes'].picture(0, number, 32)
    assert frames.shape == (1, 32, 32, 3) and truth is None
    things = captions.parse(caption).things
    assert things == staging.draw_picture(0, number).describe().things
    assert {thing.motion for thing in things} == {'still'}
  assert demo_corpus.parse_caption('a red circle moves left')['direction'] == 'left'
