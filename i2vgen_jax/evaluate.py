"""Measures a trained run on held-out clips: the base stage alone, or the whole cascade.

  python -m i2vgen_jax.evaluate --workdir=DIR [--refine_workdir=DIR] [--output=DIR/evaluation]

Goes on from the first frames of held-out clips and compares with those clips; on the demo corpus
also with the captions. With a refinement stage its corpus gives the clips, and it is compared with
what enlarging would do: of the base's videos (sampled, upscaled, refined), and of the real clips
made as small as those (shrunk, restored), where no other error than the missing detail is left.

Writes report.json, index.html, spectrum.png, contact_sheet.png and videos/; prints the figures.
"""

from absl import flags

from i2vgen_jax.process import cli, run_flags

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  run_flags.define()
  flags.DEFINE_string('output', None, 'Folder for the report; default WORKDIR/evaluation.')
  flags.DEFINE_integer('num_examples', 64, 'Number of held-out clips.', lower_bound=1)
  flags.DEFINE_string('corpus', None, "Folder of an ingested corpus; default the run's corpora.")
  flags.DEFINE_integer(
    'loss_bins', 0, 'Also measure the loss in this many bins of noise levels.', lower_bound=0
  )
  flags.DEFINE_string('clip', None, "Folder of a transformers CLIPModel, for CLIP's scores.")
  flags.DEFINE_string('video_features', None, 'TorchScript file or module:function, for FVD.')
  flags.DEFINE_string('frame_features', None, 'The same for FID, called with videos of one frame.')
  flags.DEFINE_string('vbench', None, "Folder for CAPTION-INDEX.mp4 files, VBench's layout.")
  flags.mark_flags_as_required(['workdir'])
  cli.run(__file__)

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from data_pipelines import progress
from i2vgen_jax.evaluation import captioned, clip_scores, frechet, measures, report, spectrum
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import output_folder
from i2vgen_jax.sampling import held_out, stage_flags, stages
from i2vgen_jax.training import objective

TO_REAL = ('psnr_db', 'first_frame_psnr_db', 'first_frame_ssim')  # Say nothing of the real clips.
FEWEST = 16  # Clips that a bootstrap's interval should be of.


def main() -> None:
  """Samples, measures, writes, prints."""
  given = flags.FLAGS
  output = epath.Path(given.output or epath.Path(given.workdir) / 'evaluation')
  output_folder.check_writable(output)
  held_out.check(given.refine_workdir or given.workdir, given.corpus)
  networks, hashes = load_networks(given)
  base, *rest = stage_flags.load(given)
  refinement = rest[0] if rest else None
  if refinement:
    base = base.fitting(refinement.bucket.height, refinement.bucket.width)
  last = refinement or base
  batch = held_out.clips(
    last.session, last.bucket, given.num_examples, [base.session], given.corpus
  )
  captions, real_BFHWC = batch['caption'], batch['video']
  # Before hours of sampling: networks that cannot take such clips end the command here.
  real = describe(networks, real_BFHWC, captions)
  videos = make_videos(base, refinement, batch, given.seed)
  found = measure_sets(videos, real_BFHWC, captions, last.bucket.fps)
  for name, videos_BFHWC in videos.items():
    described = real if name == 'real' else describe(networks, videos_BFHWC, captions)
    found[name] |= compare(described, real, len(captions))
  found['real'] |= dict.fromkeys(set(found['real']) & set(networks))  # Distances to themselves.

  for better, worse in (('refined', 'upscaled'), ('restored', 'shrunk')):
    if better in videos:
      found[better]['psnr_gain_db'] = gain(videos[better], videos[worse], real_BFHWC)

  output.mkdir(parents=True, exist_ok=True)
  spectra = spectrum.mean_spectra(
    {name: list(videos_BFHWC) for name, videos_BFHWC in videos.items()}
    | {'noise': [spectrum.noise_like(real_BFHWC[0], given.seed)]}
  )
  spectrum.draw(spectra, output / 'spectrum.png')
  settings = {
    'workdir': str(given.workdir),
    'step': base.step,
    'num_examples': len(captions),
    'seed': given.seed,
    'weights': given.weights,
    'corpus': given.corpus,
    'size': [last.bucket.frames, last.bucket.height, last.bucket.width],
    'fps': last.bucket.fps,
    'base': base.settings,
    'refinement': refinement and refinement.settings,
    'features': hashes,
  }
  content = settings | found | {'captions': dict(enumerate(captions))}
  losses = loss_by_noise_level(last, batch, given.loss_bins) if given.loss_bins else []
  if losses:
    content['loss_by_noise_level'] = losses
  report.write_json(output / 'report.json', content)
  report.write_videos(output, videos, last.bucket.fps)
  report.write_sheet(output / 'contact_sheet.png', videos, captions, settings)
  line = summary(found, videos)
  report.write_page(
    output, 'Held-out clips', found, videos, captions, settings,
    summary=line, spectra=spectra, losses=losses,
  )  # fmt: skip
  if given.vbench:
    report.write_vbench(given.vbench, videos[best_of(videos)], captions, last.bucket.fps)
  print(report.markdown_table(found))
  print(f'{line}: {output}/index.html')


def load_networks(given: flags.FlagValues) -> tuple[dict[str, Any], dict[str, str]]:
  """({measure: what describes videos}, {measure: hash of its weights}), the user's and our proxy.

  Raises:
    ValueError: a file is missing, or holds no such network.
  """
  networks: dict[str, Any] = {'fvd_proxy': frechet.random_features()}
  hashes: dict[str, str] = {}
  for name, source in (('fvd', given.video_features), ('fid', given.frame_features)):
    if source:
      networks[name], hashes[name] = frechet.load_features(source)
  if given.clip:
    networks['clip'], hashes['clip'] = clip_scores.load(given.clip)
  return networks, hashes


def make_videos(
  base: stages.Stage, refinement: stages.Stage | None, batch: dict[str, Any], seed: int
) -> dict[str, np.ndarray]:
  """{set: uint8 (N, F, H, W, 3)}, all of the size of the last stage's clips.

  Args:
    base: the base stage.
    refinement: the refinement stage, or None to evaluate the base stage alone.
    batch: held-out clips of the last stage's size, as held_out.clips makes them.
    seed: of the start noise.
  """
  real_BFHWC = batch['video']
  if refinement is None:
    return {'real': real_BFHWC, 'sampled': held_out.sample(base, batch, seed)}
  small, large = base.bucket, refinement.bucket
  shrunk_BFHWC = held_out.resize(real_BFHWC, small.height, small.width)
  sampled_BFHWC = held_out.sample(base, batch | {'video': shrunk_BFHWC}, seed)
  enlarge = lambda videos: held_out.resize(videos, large.height, large.width)  # noqa: E731
  return {
    'real': real_BFHWC,
    'upscaled': enlarge(sampled_BFHWC),
    'refined': held_out.sample(refinement, batch, seed, sampled_BFHWC),
    'shrunk': enlarge(shrunk_BFHWC),
    'restored': held_out.sample(refinement, batch, seed, shrunk_BFHWC),
  }


def measure_sets(
  videos: Mapping[str, np.ndarray], real_BFHWC: np.ndarray, captions: Sequence[str], fps: float
) -> dict[str, dict[str, Any]]:
  """{set: {measure: dict(mean, low, high, num), or a list over frames}}.

  Args:
    videos: uint8 (N, F, H, W, 3) by set.
    real_BFHWC: uint8, the clips that the sets are compared with.
    captions: N of them; those of the demo corpus are measured too.
    fps: frames per second of all sets.
  """
  if len(captions) < FEWEST:
    logging.warning(
      'Intervals of %d clips are too narrow to be trusted: take %d or more.', len(captions), FEWEST
    )
  follow_caption = captioned.choose(captions, fps)
  found = {}
  for name, videos_BFHWC in videos.items():
    rows, curves = [], []
    triples = zip(videos_BFHWC, real_BFHWC, captions, strict=True)
    shown = progress.over(triples, len(captions), 'clip', f'measuring {name}')
    for video, real, caption in shown:
      curve = measures.likeness_to_image(video, real[0])
      row = dict(
        psnr_db=measures.psnr(video, real),
        first_frame_psnr_db=curve['psnr_db'][0],
        first_frame_ssim=curve['ssim'][0],
        last_frame_ssim=curve['ssim'][-1],
        flicker=measures.flicker(video, measures.still_pixels(real)),
        motion=measures.motion_magnitude(video, fps),
        high_frequency_share=spectrum.high_frequency_share(video),
      )
      rows.append(row | follow_caption(video, caption))
      curves.append(curve)
    found[name] = {
      measure: measures.mean_with_interval([row[measure] for row in rows]) for measure in rows[0]
    } | {
      f'{kind}_to_first_frame': np.mean([curve[kind] for curve in curves], 0).tolist()
      for kind in curves[0]
    }
  if 'real' in found:
    found['real'] |= dict.fromkeys(TO_REAL)
  return found


def gain(
  videos_BFHWC: np.ndarray, others_BFHWC: np.ndarray, real_BFHWC: np.ndarray
) -> dict[str, Any] | None:
  """dict(mean, low, high, num): by how many dB videos are nearer to the real clips than others.

  The difference is taken clip by clip, so that the interval is that of the gain and not of how hard
  the clips are.

  Args:
    videos_BFHWC: uint8, the better ones.
    others_BFHWC: uint8, the worse ones.
    real_BFHWC: uint8, the real clips.
  """
  triples = zip(videos_BFHWC, others_BFHWC, real_BFHWC, strict=True)
  return measures.mean_with_interval(
    [measures.psnr(video, real) - measures.psnr(other, real) for video, other, real in triples]
  )


def describe(
  networks: Mapping[str, Any], videos_BFHWC: np.ndarray, captions: Sequence[str]
) -> dict[str, Any]:
  """{network: (N, D) features of the videos, or one dict of scores per video from CLIP}.

  Args:
    networks: of `load_networks`.
    videos_BFHWC: uint8.
    captions: one per video, for CLIP.
  """
  described: dict[str, Any] = {}
  for name, network in networks.items():
    if name == 'clip':
      described[name] = clip_scores.measure(network, videos_BFHWC, captions)
    else:
      of = frechet.of_frames if name == 'fid' else frechet.of_videos
      described[name] = of(network, videos_BFHWC)
  return described


def compare(
  described: Mapping[str, Any], real: Mapping[str, Any], num_videos: int
) -> dict[str, Any]:
  """{measure: dict(mean, low, high, num)}: distance to the real clips, and CLIP's scores.

  Args:
    described: of `describe`, for the videos.
    real: of `describe`, for the real clips.
    num_videos: N; a distance needs two at least.
  """
  found = {}
  for name, features_ND in described.items():
    if name == 'clip':
      for score in features_ND[0]:
        found[score] = measures.mean_with_interval([row[score] for row in features_ND])
    elif num_videos > 1:
      found[name] = frechet.distance_with_interval(features_ND, real[name], num_videos)
  return found


def loss_by_noise_level(
  run: stages.Stage, batch: Mapping[str, Any], bins: int
) -> list[dict[str, Any]]:
  """[dict(start, stop, mean, low, high, num)] of held-out clips; noise is fixed by (seed, row).

  Args:
    run: the stage whose loss is measured.
    batch: of held_out.clips, at the stage's size.
    bins: how many intervals of timesteps the trained range is cut into.
  """
  start, stop = run.session.config.loss.timestep_range
  edges = np.linspace(start, stop, bins + 1).astype(int)

  def losses_of(params, frozen, part, start, stop):
    loss = objective.make_eval_loss(run.session, (start, stop))
    return loss(params, frozen, part, objective.data_seed(run.session.config.seed))

  losses = jax.jit(mesh_lib.within(run.session.mesh, losses_of))
  rows = []
  arrays = {name: value for name, value in batch.items() if name not in ('caption', 'key')}
  total = len(arrays['video'])
  for low, high in zip(edges, edges[1:], strict=False):
    found = []
    for part, count in held_out.parts(arrays, total, held_out.BATCH, run.session.mesh):
      found.append(np.asarray(losses(run.params, run.session.frozen, part, low, high))[:count])
    interval = measures.mean_with_interval(np.concatenate(found)) or {}
    rows.append(dict(start=int(low), stop=int(high), **interval))
  return rows


def best_of(videos: Mapping[str, np.ndarray]) -> str:
  """The set that the last stage made: what the command is about."""
  return 'refined' if 'refined' in videos else 'sampled'


def summary(found: Mapping[str, Mapping[str, Any]], videos: Mapping[str, np.ndarray]) -> str:
  """One line on the last stage.

  Args:
    found: of `measure_sets`.
    videos: by set.
  """
  mean = {
    name: value['mean'] for name, value in found[best_of(videos)].items() if isinstance(value, dict)
  }
  return f'{captioned.summary(mean)}first frame {mean["first_frame_psnr_db"]:.1f} dB'
