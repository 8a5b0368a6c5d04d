"""Recall and precision of curate's shot detector, by the way in which shots are joined.

  python -m benchmarks.joins [--media DIR ...] [--half 0] [--seed 0] [--num_films 10] [--shots FILE]

Films are made (films.py) of the videos and pictures in DIR, and of rendered textures; encoded as
H.264, and given to the detector as `curate` gives them, or to TransNetV2 with the weights in FILE.
Half 0 of the sources and seed 0 are for tuning; what is published comes of half 1 and seed 1.

A join is found if a detection touches it, give or take two frames; a detection that touches none
is false. In brackets are 95 % intervals (Wilson). "mixed" is the share of frames of gradual joins,
plain ones between them included, that the spans still hold; "lost" the share of the shots' frames
that they do not.
"""

import argparse
import collections
import math
import zlib
from collections.abc import Sequence

import numpy as np

from benchmarks.joins import films
from data_pipelines import demo_corpus
from data_pipelines.curate import measure, shots
from data_pipelines.score import transitions
from i2vgen_jax.evaluation import shot_network

NUM_SHOTS = 7
TOLERANCE = 2  # Frames.


def main():
  """Entry point."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--media', action='append', default=[], help='of videos and pictures')
  parser.add_argument('--half', type=int, default=0, choices=(0, 1), help='of the sources')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--num_films', type=int, default=10, help='of each kind')
  parser.add_argument('--shots', default='', help="file of TransNetV2's weights")
  options = parser.parse_args()
  network = shot_network.ShotNetwork(options.shots) if options.shots else None
  groups = {'rendered textures': films.rendered_sources(options.half)}
  if options.media:
    groups = {'real footage': films.real_sources(options.media, options.half)} | groups
  for title, sources in groups.items():
    print(f'{title}: {len(sources)} sources, half {options.half}, seed {options.seed}')
    print(f'{"":9} joins  recall               precision            mixed   lost')
    for kind in films.JOINS + films.NO_JOINS:
      counts: collections.Counter = collections.Counter()
      for number in range(options.num_films):
        rng = np.random.default_rng((options.seed, number, zlib.crc32(kind.encode())))
        film = films.make(kind, sources, rng, NUM_SHOTS)
        counts.update(score(film, detect(film, network)))
      print(f'{kind:9} {_line(counts)}')


def detect(film: films.Film, network: transitions.Network | None) -> list[tuple[int, int]]:
  """What curate's detector, or a network, finds: (first frame of no shot, first of the next)."""
  data = demo_corpus.encode_video(film.frames_FHWC, films.FPS, crf=23)
  if network:
    return transitions.spans(network(transitions.decode_small(data, *network.size, math.inf)[1]))
  detector = shots.ShotDetector(films.FPS)
  for _, frame_HWC in measure._small_frames(data):
    detector.add(frame_HWC)
  found = detector.finish()
  return [*found.transitions, *found.plain]


def score(film: films.Film, found: Sequence[tuple[int, int]]) -> dict[str, int]:
  """Counts of a film's joins, of what was found, and of frames."""
  touch = lambda a, b: a[0] <= b[1] + TOLERANCE and b[0] <= a[1] + TOLERANCE  # noqa: E731
  true_F, left_F = np.ones(len(film.frames_FHWC), bool), np.ones(len(film.frames_FHWC), bool)
  for mask, spans in ((true_F, film.truth), (left_F, found)):
    for start, stop in spans:
      mask[start:stop] = False
  return dict(
    joins=len(film.truth),
    found=sum(any(touch(join, span) for span in found) for join in film.truth),
    detections=len(found),
    right=sum(any(touch(join, span) for join in film.truth) for span in found),
    events=film.num_events,
    gradual=int((~true_F).sum()),
    mixed=int((~true_F & left_F).sum()),
    shots=int(true_F.sum()),
    lost=int((true_F & ~left_F).sum()),
  )


def _line(counts: collections.Counter) -> str:
  if not counts['joins']:
    false, events = counts['detections'] - counts['right'], counts['events']
    return f'{false} false in {events}; {counts["lost"] / counts["shots"]:.1%} lost'
  recall, precision = (
    _share(counts[part], counts[whole])
    for part, whole in (('found', 'joins'), ('right', 'detections'))
  )
  mixed = f'{counts["mixed"] / counts["gradual"]:7.1%}' if counts['gradual'] else '      -'
  lost = counts['lost'] / counts['shots']
  return f'{counts["joins"]:5}  {recall}  {precision} {mixed} {lost:6.1%}'


def _share(count: int, total: int) -> str:
  if not total:
    return '   -                '
  low, high = wilson(count, total)
  return f'{count / total:.3f} [{low:.3f}, {high:.3f}]'


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
  """The 95 % interval of a share (Wilson 1927)."""
  share, extra = count / total, z * z / total
  middle = (share + extra / 2) / (1 + extra)
  half = z * math.sqrt(share * (1 - share) / total + extra / total / 4) / (1 + extra)
  return max(0.0, middle - half), min(1.0, middle + half)


if __name__ == '__main__':
  main()
