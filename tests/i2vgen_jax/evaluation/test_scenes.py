"""The measures of scenes are right on real clips, and each fails on clips that are wrong in it."""

import dataclasses

import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.demo_corpus import captions, kinds, painting, scenes, staging
from data_pipelines.demo_corpus.scenes import Thing
from data_pipelines.media import decode
from i2vgen_jax import evaluate
from i2vgen_jax.evaluation import scenes as scene_measures

FIRST = scenes.OFFSETS['val']
NUMBERS = range(FIRST, FIRST + 40)  # Two of the cycles in which kinds of scenes follow.
# What training may see of a clip: (side, frames, frames per second).
VIEWS = ((128, 32, 16), (64, 16, 8), (64, 8, 4))
RIGHTS = (
  'follows_caption',
  'follows_unseen',
  'follows_camera',
  'follows_speed',
  'follows_depth',
  'keeps_color',
  'keeps_shape',
  'keeps_count',
)


def view(frames, size=64, num_frames=16, fps=8):
  """Frames as training gets them, after H.264."""
  times = np.arange(num_frames) / fps
  return decode.decode_video(demo_corpus.encode_video(frames), times, size, size)[0]


def film(scene, **changes):
  """A view of a scene, whose first thing or which is changed."""
  names = {field.name for field in dataclasses.fields(Thing)}
  of_thing = {name: value for name, value in changes.items() if name in names}
  of_scene = {name: value for name, value in changes.items() if name not in names}
  first, *others = scene.things
  things = of_scene.pop('things', (dataclasses.replace(first, **of_thing), *others))
  return view(painting.paint_clip(dataclasses.replace(scene, things=things, **of_scene)))


def means(rows):
  """{measure: its mean over the clips of which it says something, or None}."""
  values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
  known = {name: value[~np.isnan(value)] for name, value in values.items()}
  return {name: float(value.mean()) if len(value) else None for name, value in known.items()}


def measure_real(numbers):
  """{view: the measures of each clip}."""
  found = {side: [] for side in VIEWS}
  for number in numbers:
    frames, caption, truth = kinds.KINDS['scenes'].clip(0, number, scenes.SIZE)
    for side in VIEWS:
      row = scene_measures.measure(view(frames, *side), caption, side[2])
      row['speed'] = row['pixels_per_second'] / side[0] / truth['things'][0]['rate']
      found[side].append(row)
  return found


@pytest.fixture(scope='module')
def staged():
  """(scene, caption) of clips of all kinds."""
  drawn = [staging.draw(0, number) for number in NUMBERS]
  rng = np.random.default_rng(0)
  return [(scene, captions.write(scene.describe(), rng)) for scene in drawn]


@pytest.fixture(scope='module')
def real(staged):
  return [film(scene) for scene, _ in staged]


def measure(videos, staged):
  """Mean of each measure."""
  pairs = zip(videos, staged, strict=True)
  return means([scene_measures.measure(video, caption, 8) for video, (_, caption) in pairs])


def of(condition, staged):
  """The clips of which something holds."""
  return [pair for pair in staged if condition(pair[0])]


def test_real_clips_are_right_in_everything():
  for side, rows in measure_real(NUMBERS).items():
    found = means(rows)
    assert {name: found[name] for name in RIGHTS} == dict.fromkeys(RIGHTS, 1.0), side
    speeds = [row['speed'] for row in rows if not np.isnan(row['speed'])]
    assert len(speeds) > 20 and 0.9 < min(speeds) and max(speeds) < 1.1, side


@pytest.mark.slow
def test_of_a_thousand_real_clips_at_least_995_are_right_in_each_measure():
  for side, rows in measure_real(range(FIRST + 1000, FIRST + 2000)).items():
    found = means(rows)
    print(side, found, {name: sum(~np.isnan([row[name] for row in rows])) for name in RIGHTS})
    assert min(found[name] for name in RIGHTS) >= 0.995, (side, found)


def test_clips_in_reverse_do_not_follow_their_captions(real, staged):
  pairs = list(zip([video[::-1] for video in real], staged, strict=True))
  moving = [pair for pair in pairs if pair[1][0].things[0].motion != 'still']
  found = measure(*zip(*moving, strict=True))
  assert found['follows_caption'] == found['follows_speed'] == found['follows_unseen'] == 0
  filmed = [pair for pair in pairs if pair[1][0].camera != 'still']
  assert measure(*zip(*filmed, strict=True))['follows_camera'] == 0


def test_still_frames_do_nothing(real, staged):
  found = measure([np.repeat(video[:1], 16, 0) for video in real], staged)
  assert found['stands_still'] == 1 and found['follows_speed'] == found['follows_unseen'] == 0
  assert found['follows_camera'] == np.mean([scene.camera == 'still' for scene, _ in staged])
  still = [all(thing.motion == 'still' for thing in scene.things) for scene, _ in staged]
  assert found['follows_caption'] == np.mean(still)


def test_other_colours_are_noticed_and_nothing_else(real, staged):
  alone = [pair for pair in zip(real, staged, strict=True) if len(pair[1][0].things) == 1][:16]
  videos, clips = zip(*alone, strict=True)
  found = measure([video[..., [2, 0, 1]] for video in videos], clips)
  assert found['keeps_color'] == 0
  assert found['keeps_shape'] == found['keeps_count'] == found['follows_caption'] == 1
  half_way = [np.concatenate([v[:8], v[8:, ..., [2, 0, 1]]]) for v in videos]
  assert measure(half_way, clips)['keeps_color'] == 0


@pytest.mark.parametrize('shape', captions.SHAPES)
def test_other_shapes_are_noticed_and_nothing_else(shape, staged):
  others = of(lambda scene: scene.things[0].shape != shape, staged)[:5]
  found = measure([film(scene, shape=shape) for scene, _ in others], others)
  assert found['keeps_shape'] == 0 and found['keeps_color'] == found['keeps_count'] == 1


@pytest.mark.parametrize('is_same_color', [False, True])
def test_a_thing_too_much_is_noticed(is_same_color, staged):
  alone = of(lambda scene: len(scene.things) == 1 and scene.camera == 'still', staged)[:5]
  videos = []
  for scene, _ in alone:
    [thing] = scene.things
    color = thing.color if is_same_color else 'red' if thing.color != 'red' else 'green'
    more = Thing(color, 'star', x=0.14, y=0.14, radius=0.09)
    videos.append(film(scene, things=(thing, more)))
  assert measure(videos, alone)['keeps_count'] == 0


def test_a_thing_that_is_missing_is_noticed(staged):
  several = of(lambda scene: len(scene.things) > 1, staged)
  found = measure([film(scene, things=scene.things[:-1]) for scene, _ in several], several)
  for name in ('keeps_count', 'keeps_color', 'keeps_shape', 'follows_caption'):
    assert found[name] == 0, name


def test_other_motions_and_speeds_are_noticed(staged):
  following = dict(zip(captions.MOTIONS, [*captions.MOTIONS[1:], captions.MOTIONS[0]], strict=True))
  moving = of(lambda s: len(s.things) == 1 and s.things[0].motion != 'still', staged)[:12]
  other = [film(s, motion=following[s.things[0].motion], shape='star') for s, _ in moving]
  assert measure(other, moving)['follows_caption'] == 0
  for name in captions.SPEEDS:
    others = [pair for pair in moving if pair[0].things[0].speed != name][:8]
    found = measure([film(scene, speed=name) for scene, _ in others], others)
    assert found['follows_speed'] == 0 and found['follows_caption'] == 1


@pytest.mark.parametrize('camera', captions.CAMERAS)
def test_the_camera_is_told_from_the_things(camera, staged):
  """By things that do not move while the camera does."""
  others = of(lambda s: s.backdrop != 'plain' and len(s.things) == 1 and s.camera != camera, staged)
  videos = [film(scene, camera=camera, motion='still') for scene, _ in others[:4]]
  assert measure(videos, others[:4])['follows_camera'] == 0
  names = [f'a {scene.things[0].color} {scene.things[0].shape}' for scene, _ in others[:4]]
  assert measure(videos, [(None, f'{name} stays still') for name in names])['follows_caption'] == 1


def test_which_of_two_is_in_front_is_told(staged):
  meeting = of(lambda scene: scene.relation in ('behind', 'in front of'), staged)
  swap = {'behind': 'in front of', 'in front of': 'behind'}
  found = measure([film(s, relation=swap[s.relation]) for s, _ in meeting], meeting)
  assert len(meeting) == 4 and found['follows_depth'] == 0 and found['follows_speed'] == 1


@pytest.mark.parametrize('motion', captions.MOVES)
def test_the_distances_of_slow_and_fast_are_a_factor_of_three_apart(motion):
  scene = staging.draw(0, FIRST)
  thing = dataclasses.replace(scene.things[0], motion=motion, x=0.5, y=0.5, radius=0.12)
  caption = f'a {thing.color} {thing.shape} moves {motion}'
  slow, fast = (
    scene_measures.distance(film(scene, things=(dataclasses.replace(thing, speed=speed),)), caption)
    for speed in ('slowly', 'fast')
  )
  assert fast / slow == pytest.approx(3, rel=0.05)
  expected = scenes.MOVE_RATE * 3**0.5 * 15 / 8 * 64
  assert fast == pytest.approx(expected, rel=0.05)


def test_a_distance_is_of_captions_that_say_where_to():
  with pytest.raises(ValueError, match='should say that its first shape goes'):
    scene_measures.distance(np.zeros((4, 64, 64, 3), np.uint8), 'a red star grows')


@pytest.mark.parametrize('brightness', [0, 128])
def test_videos_without_things_are_wrong_and_no_error(brightness, staged):
  empty = np.full((8, 64, 64, 3), brightness, np.uint8)
  row = scene_measures.measure(empty, 'a red circle moves left fast behind a green star', 8)
  for name in ('follows_caption', 'follows_speed', 'keeps_color', 'keeps_shape', 'keeps_count'):
    assert row[name] == 0
  assert row['stands_still'] == 1 and row['pixels_per_second'] == 0


def test_noise_changes_little(real, staged):
  """A model's samples are not as clean as real clips."""
  rng = np.random.default_rng(0)
  noisy = [np.clip(v + rng.normal(0, 8, v.shape), 0, 255).astype(np.uint8) for v in real]
  found = measure(noisy, staged)
  assert min(found[name] for name in RIGHTS) >= 0.95, found


def test_evaluate_knows_scenes_by_their_captions(real, staged):
  texts = [caption for _, caption in staged[:16]]
  found = evaluate.measure_sets({'real': np.stack(real[:16])}, np.stack(real[:16]), texts, 8)
  assert found['real']['follows_camera']['mean'] == 1.0
  assert 'movement_of_width' not in found['real']
  texts[3] = 'a dog runs'
  found = evaluate.measure_sets({'real': np.stack(real[:16])}, np.stack(real[:16]), texts, 8)
  assert 'follows_caption' not in found['real']
