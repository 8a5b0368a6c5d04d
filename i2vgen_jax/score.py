"""Scores a corpus by networks: aesthetic, caption similarity, NSFW, the share of the subject; and
finds where its shots end.

  python -m i2vgen_jax.score --corpus=CORPORA/videos --shots=transnetv2.pth      # before curate
  python -m i2vgen_jax.score --corpus=CORPORA/videos --clip=CLIP --aesthetic=head.safetensors

The networks run here, on this host's devices; data_pipelines/score/ decodes, writes the columns
and resumes what was killed. Which files of weights fit: data_pipelines/README.md.
"""

from absl import flags

from i2vgen_jax.process import cli

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('corpus', None, 'Folder of a corpus, as ingest wrote it.')
  flags.DEFINE_string('clip', '', 'Folder of a transformers CLIPModel.')
  flags.DEFINE_string('aesthetic', '', 'Safetensors file of the aesthetic head.')
  flags.DEFINE_string('nsfw', '', 'Safetensors file of the NSFW head.')
  flags.DEFINE_string('saliency', '', 'ONNX file of a saliency network, such as U2-Net.')
  flags.DEFINE_string('shots', '', "File of TransNetV2's weights; curate then takes its shots.")
  flags.DEFINE_integer('batch_size', 32, 'Examples per step, of three pictures each.')
  flags.DEFINE_integer('num_threads', 4, 'Number of threads that decode.')
  flags.DEFINE_enum('engine', 'local', ('local', 'ray'), 'This process, or actors of Ray.')
  flags.DEFINE_string(
    'ray_address', '', 'HOST:PORT of a Ray cluster that runs; empty starts one on this machine.'
  )
  flags.DEFINE_string('ray_resources', '', 'What each actor takes, such as CPU=4,GPU=1.')
  flags.DEFINE_integer('ray_actors', 0, 'Number of actors; 0 for as many as there is room for.')
  flags.DEFINE_bool('dry_run', False, 'Only say what would be done; write nothing.')
  flags.mark_flags_as_required(['corpus'])
  cli.run(__file__)

import time
from typing import Any

from data_pipelines.corpus import reader
from data_pipelines.engines import choice
from data_pipelines.media import failures
from data_pipelines.score import shards, transitions
from i2vgen_jax.evaluation import clip_scorer, shot_network


def main() -> None:
  """Entry point."""
  given = flags.FLAGS
  start = time.monotonic()
  if given.dry_run:
    splits = reader.read_manifest(given.corpus)['splits'].values()
    num = sum(split['num_examples'] for split in splits)
    print(f'{given.corpus}: {num:,} examples to score; nothing was written')
    return
  if given.shots:
    found = find_shots(given.corpus, given.shots, given.num_threads)
    if found['failed']:
      print(failures.sentence(found['failed'], 'decoded'))
    print(
      f'{given.corpus}: {found["num_transitions"]:,} transitions in {found["num_examples"]:,} '
      f'examples, {time.monotonic() - start:.1f} s; curate takes them'
    )
    if not given.clip and not given.saliency:
      return
  engine = choice.engine_of(
    given.engine, given.ray_address, given.ray_resources, num_actors=given.ray_actors
  )
  summary = score(
    given.corpus,
    given.clip,
    aesthetic=given.aesthetic,
    nsfw=given.nsfw,
    saliency=given.saliency,
    batch_size=given.batch_size,
    num_threads=given.num_threads,
    engine=engine,
  )
  if summary['failed']:
    print(failures.sentence(summary['failed'], 'scored'))
  print(
    f'{given.corpus}: {summary["num_scored"]:,} of {summary["num_examples"]:,} scored, '
    f'{time.monotonic() - start:.1f} s'
  )


def score(corpus: str, clip: str = '', **options: Any) -> dict[str, Any]:
  """Writes sidecar/score/ of a corpus.

  Args:
    corpus: its folder, as ingest wrote it.
    clip: folder of a CLIPModel of transformers (clip_scorer.py); '' goes without.
    **options: of `shards.score`: the other networks' files, batch_size, num_threads, engine.

  Returns:
    The stage's manifest.

  Raises:
    ValueError: the folder holds no corpus, or weights are missing or do not fit.
  """
  scorer = None
  if clip:
    reader.read_manifest(corpus)  # Raises before CLIP is loaded.
    scorer = clip_scorer.ClipScorer(clip)
  return shards.score(corpus, scorer, **options)


def find_shots(corpus: str, weights: str, num_threads: int = 2) -> dict[str, Any]:
  """Writes sidecar/shots/ of a corpus.

  Args:
    corpus: its folder, as ingest wrote it.
    weights: file of TransNetV2 (pretrained/transnet_names.py).
    num_threads: that decode, each in a child process.

  Returns:
    The stage's manifest.

  Raises:
    ValueError: the folder holds no corpus, or the weights are missing or do not fit.
  """
  reader.read_manifest(corpus)  # Raises before the network is loaded.
  return transitions.find(corpus, shot_network.ShotNetwork(weights), weights, num_threads)
