"""Whether a video of the demo corpus's scenes does what its caption says.

Measured from pixels: the camera by the backdrop, the things by their colours. What a thing does is
relative to the scene: one that stays where it is does not move, though the camera pans.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.demo_corpus import captions, scenes
from data_pipelines.demo_corpus.captions import STILL
from i2vgen_jax.evaluation import scene_camera, scene_motion, scene_things
from i2vgen_jax.evaluation.scene_things import Track

MIN_FRAMES = 0.9  # Share of the frames that show the right things.
MIN_HIDDEN = 0.1  # Share of a thing's area, to say which of two lies behind the other.


def is_scenes(texts: Sequence[str]) -> bool:
  """Whether all are captions of scenes."""
  try:
    return all(captions.parse(text) for text in texts)
  except ValueError:
    return False


def measure(video_FHWC: np.ndarray, caption: str, fps: float) -> dict[str, float]:
  """What of its caption a uint8 video does: 1 or 0; NaN where the caption says nothing of it.

  follows_caption: each thing moves, grows, turns or stays as captioned, relative to the scene.
  follows_unseen: the same, of a first thing whose colour, shape and motion no training video has.
  follows_camera: the camera pans, tilts, zooms or stays as captioned.
  follows_speed: what does something does it slowly, fast, or at the speed between.
  follows_depth: of two things that meet, the right one is hidden by the other.
  keeps_color, keeps_shape: each thing has its colour, its outline, from start to end.
  keeps_count: there are as many things as captioned.
  stands_still: the first thing does nothing, though it should.
  pixels_per_second: speed of the first thing in its captioned direction, relative to the scene.
  """
  wanted = captions.parse(caption)
  things = scene_things.find(video_FHWC)
  windows_F3 = scene_camera.windows(things)
  tracks = _matched(wanted.things, things)
  amounts = [
    scene_motion.measure_thing(track, windows_F3, fps).of_thing() if track else None
    for track in tracks
  ]
  pairs = list(zip(wanted.things, tracks, strict=True))
  does = [scene_motion.most(amount) if amount else 'is gone' for amount in amounts]
  speeds = [
    words.speed == scene_motion.speed(amount[words.motion] if amount else 0)
    for words, amount in zip(wanted.things, amounts, strict=True)
    if words.motion != STILL
  ]
  follows = float(does == [words.motion for words in wanted.things])
  first = wanted.things[0]
  unseen = scenes.held_out_combinations('val') | scenes.held_out_combinations('sealed')
  camera = scene_motion.measure_camera(windows_F3, fps).of_camera()
  share_to_pixels = scenes.MOVE_RATE * video_FHWC.shape[2]
  return dict(
    follows_caption=follows,
    follows_unseen=follows if first.combination in unseen else np.nan,
    follows_camera=float(scene_motion.most(camera) == wanted.camera),
    follows_speed=float(all(speeds)) if speeds else np.nan,
    follows_depth=_follows_depth(wanted.relation, tracks),
    keeps_color=float(all(_keeps_color(*pair) for pair in pairs)),
    keeps_shape=float(all(_keeps_shape(*pair) for pair in pairs)),
    keeps_count=float(np.mean(things.counts_F == len(pairs)) >= MIN_FRAMES),
    stands_still=float(does[0] in (STILL, 'is gone')) if first.motion != STILL else np.nan,
    pixels_per_second=(amounts[0][first.motion] if amounts[0] else 0) * share_to_pixels
    if first.motion in captions.MOVES
    else np.nan,
  )


def distance(video_FHWC: np.ndarray, caption: str) -> float:
  """Pixels that the first thing of a caption goes in its direction, relative to the scene.

  From the first frame to the last of a uint8 video. Of real clips that differ in 'slowly' and
  'fast' alone, the ratio is 1 to 3.

  Raises:
    ValueError: the caption does not say that it goes anywhere.
  """
  wanted = captions.parse(caption)
  if wanted.things[0].motion not in captions.MOVES:
    raise ValueError(
      f'caption {caption!r} should say that its first shape goes left, right, up or down.'
    )
  things = scene_things.find(video_FHWC)
  [track, *_] = _matched(wanted.things, things)
  if track is None:
    return 0.0
  # At one frame per second.
  motion = scene_motion.measure_thing(track, scene_camera.windows(things), 1)
  along = np.dot(motion.velocity, captions.MOVES[wanted.things[0].motion])
  return float(along * (len(video_FHWC) - 1) * video_FHWC.shape[2])


def _matched(wanted: Sequence[captions.Words], things: scene_things.Things) -> list[Track | None]:
  """The track of each thing of a caption: by colour, the others by shape, or whatever is left."""
  left = dict(things.tracks)
  matched = [left.pop(words.color, None) for words in wanted]
  for is_alike in (_keeps_shape, lambda *pair: True):
    for i, words in enumerate(wanted):
      alike = [color for color, track in left.items() if is_alike(words, track)]
      if matched[i] is None and alike:
        matched[i] = left.pop(alike[0])
  return matched


def _keeps_color(words: captions.Words, track: Track | None) -> bool:
  return bool(track and track.color == words.color and track.is_seen.mean() >= MIN_FRAMES)


def _keeps_shape(words: captions.Words, track: Track | None) -> bool:
  """Whether the outline is right in both halves of the frames that show all of it."""
  if track is None:
    return False
  has_shape = ~np.isnan(track.scores_FS[:, 0])
  used = np.flatnonzero(has_shape & track.is_whole_F)
  used = used if len(used) else np.flatnonzero(has_shape)
  return len(used) > 0 and all(
    track.shape(half) == words.shape for half in np.array_split(used, 2) if len(half)
  )


def _follows_depth(relation: str, tracks: Sequence[Track | None]) -> float:
  """Whether of two things the one behind loses more of its area; NaN if neither loses any."""
  if relation not in ('behind', 'in front of'):
    return np.nan
  hidden = []
  for track in tracks[:2]:
    if track is None or not (track.is_seen & track.is_whole_F).any():
      return np.nan
    whole = np.median(track.areas_F[track.is_seen & track.is_whole_F])
    hidden.append(1 - np.nan_to_num(track.areas_F).min() / whole)
  if max(hidden) < MIN_HIDDEN:
    return np.nan
  return float((hidden[0] > hidden[1]) == (relation == 'behind'))
