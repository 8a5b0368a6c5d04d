"""Measures a trained run on held-out clips: the base stage alone, or the whole cascade.

  python -m i2vgen_jax.evaluate --workdir=DIR [--refine_workdir=DIR] [--output=DIR/evaluation]

Goes on from the first frames of held-out clips and compares with those clips; on the demo corpus
also with the captions. With a refinement stage its corpus gives the clips, and it is compared with
what enlarging would do: of the base's videos (sampled, upscaled, refined), and of the real clips
made as small as those (shrunk, restored), where no other error than the missing detail is left.

Writes report.json, index.html, spectrum.png, contact_sheet.png and videos/; prints the figures.
"""

import jax
import numpy as np
from absl import flags
from etils import epath

from i2vgen_jax.evaluation import clip_scores, frechet, measures, report, shapes, spectrum
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import cli
from i2vgen_jax.sampling import held_out, stages
from i2vgen_jax.training import step


def main():
  """Samples, measures, writes, prints."""
  given = flags.FLAGS
  networks, hashes = load_networks(given)
  base, refinement = load_stages(given)
  last = refinement or base
  batch = held_out.held_out(last, given.num_examples)
  captions, real_BFHWC = batch['caption'], batch['video']
  # Before hours of sampling: networks that cannot take such clips end the command here.
  real = describe(networks, real_BFHWC, captions)
  videos = make_videos(base, refinement, batch, given.seed)
  found = measure_sets(videos, real_BFHWC, captions, last.bucket.fps)
  for name, videos_BFHWC in videos.items():
    described = real if name == 'real' else describe(networks, videos_BFHWC, captions)
    found[name] |= compare(described, real, len(captions))

  for better, worse in (('refined', 'upscaled'), ('restored', 'shrunk')):
    if better in videos:
      found[better]['psnr_gain_db'] = gain(videos[better], videos[worse], real_BFHWC)

  output = epath.Path(given.output or epath.Path(given.workdir) / 'evaluation')
  output.mkdir(parents=True, exist_ok=True)
  spectra = spectrum.mean_spectra(
    {name: list(videos_BFHWC) for name, videos_BFHWC in videos.items()}
    | {'noise': [spectrum.noise_like(real_BFHWC[0], given.seed)]}
  )
  spectrum.draw(spectra, output / 'spectrum.png')
  settings = {
    'num_examples': len(captions),
    'seed': given.seed,
    'weights': given.weights,
    'size': [last.bucket.frames, last.bucket.height, last.bucket.width],
    'base': base.settings,
    'refinement': refinement and refinement.settings,
    'features': hashes,
  }
  content = settings | found | {'captions': dict(enumerate(captions))}
  if given.loss_bins:
    content['loss_by_noise_level'] = loss_by_noise_level(last, batch, given.loss_bins)
  report.write_json(output / 'report.json', content)
  report.write_videos(output, videos, last.bucket.fps)
  report.write_sheet(output / 'contact_sheet.png', videos)
  report.write_page(
    output, 'Held-out clips', found, videos, captions, settings,
    ('spectrum.png', 'contact_sheet.png'),
  )  # fmt: skip
  if given.vbench:
    report.write_vbench(given.vbench, videos[best_of(videos)], captions, last.bucket.fps)
  print(report.markdown_table(found))
  print(summary(found, videos, output))


def load_networks(given):
  """({measure: what describes videos}, {measure: hash of its weights}), the user's and our proxy.

  Raises:
    ValueError: one is not there, or is none.
  """
  networks, hashes = {'fvd_proxy': frechet.random_features()}, {}
  for name, source in (('fvd', given.video_features), ('fid', given.frame_features)):
    if source:
      networks[name], hashes[name] = frechet.load_features(source)
  if given.clip:
    networks['clip'], hashes['clip'] = clip_scores.load(given.clip)
  return networks, hashes


def load_stages(given):
  """(base, refinement or None); raises ValueError if one is in the other's place."""
  stages.check_stages(given.workdir, given.refine_workdir)
  shared = dict(weights=given.weights, seed=given.seed)
  base = held_out.load(
    given.workdir, step=given.step, num_steps=given.steps, guidance_scale=given.guidance, **shared
  )
  if not given.refine_workdir:
    return base, None
  refinement = held_out.load(
    given.refine_workdir,
    num_steps=given.refine_steps,
    guidance_scale=given.refine_guidance,
    sampler=given.refine_sampler,
    levels=given.refine_levels,
    **shared,
  )
  return base, refinement


def make_videos(base, refinement, batch, seed):
  """{set: uint8 (N, F, H, W, 3)}, all of the size of the last stage's clips."""
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


def measure_sets(videos, real_BFHWC, captions, fps):
  """{set: {measure: dict(mean, low, high, num), or a list over frames}}."""
  is_demo = shapes.is_demo(captions)
  found = {}
  for name, videos_BFHWC in videos.items():
    rows, curves = [], []
    for video, real, caption in zip(videos_BFHWC, real_BFHWC, captions, strict=True):
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
      rows.append(row | (shapes.measure(video, caption) if is_demo else {}))
      curves.append(curve)
    found[name] = {
      measure: measures.mean_with_interval([row[measure] for row in rows]) for measure in rows[0]
    } | {
      f'{kind}_to_first_frame': np.mean([curve[kind] for curve in curves], 0).tolist()
      for kind in curves[0]
    }
  return found


def gain(videos_BFHWC, others_BFHWC, real_BFHWC):
  """dict(mean, low, high, num): by how many dB videos are nearer to the real clips than others.

  Clip by clip, so that its interval is that of the gain and not of how hard clips are.
  """
  triples = zip(videos_BFHWC, others_BFHWC, real_BFHWC, strict=True)
  return measures.mean_with_interval(
    [measures.psnr(video, real) - measures.psnr(other, real) for video, other, real in triples]
  )


def describe(networks, videos_BFHWC, captions):
  """{network: (N, D) features of the videos, or of CLIP a score for each}."""
  described = {}
  for name, network in networks.items():
    if name == 'clip':
      described[name] = clip_scores.measure(network, videos_BFHWC, captions)
    else:
      of = frechet.of_frames if name == 'fid' else frechet.of_videos
      described[name] = of(network, videos_BFHWC)
  return described


def compare(described, real, num_videos):
  """{measure: dict(mean, low, high, num)}: distance to the real clips, two at least, and scores."""
  found = {}
  for name, features_ND in described.items():
    if name == 'clip':
      for score in features_ND[0]:
        found[score] = measures.mean_with_interval([row[score] for row in features_ND])
    elif num_videos > 1:
      found[name] = frechet.distance_with_interval(features_ND, real[name], num_videos)
  return found


def loss_by_noise_level(run, batch, bins):
  """[dict(start, stop, mean, low, high, num)] of held-out clips; noise is fixed by (seed, row)."""
  start, stop = run.config.loss.timestep_range
  edges = np.linspace(start, stop, bins + 1).astype(int)

  def losses(params, frozen, part, start, stop):
    loss = step.make_eval_loss(
      run.components.unet, run.components.encoders, run.components.schedule,
      prediction_type=run.config.loss.prediction_type, timestep_range=(start, stop),
    )  # fmt: skip
    # As a run's own state has it.
    seed = jax.random.key_data(jax.random.fold_in(jax.random.key(run.config.seed), 1))
    return loss(params, frozen, part, seed)

  losses = jax.jit(mesh_lib.within(run.mesh, losses))
  rows = []
  names = [name for name in batch if name not in ('caption', 'key')]
  for low, high in zip(edges, edges[1:], strict=False):
    found = []
    total = len(batch['video'])
    for first in range(0, total, held_out.BATCH):
      picks = np.minimum(np.arange(first, first + held_out.BATCH), total - 1)
      part = mesh_lib.place_batch({name: batch[name][picks] for name in names}, run.mesh)
      found.append(np.asarray(losses(run.params, run.frozen, part, low, high))[: total - first])
    interval = measures.mean_with_interval(np.concatenate(found))
    rows.append(dict(start=int(low), stop=int(high), **interval))
  return rows


def best_of(videos):
  """The set that the command is about: of the last stage."""
  return 'refined' if 'refined' in videos else 'sampled'


def summary(found, videos, output):
  """One line on the last stage."""
  mean = {name: value['mean'] for name, value in found[best_of(videos)].items() if _is_mean(value)}
  line = f'first frame {mean["first_frame_psnr_db"]:.1f} dB: {output}/index.html'
  if 'follows_caption' not in mean:
    return line
  return (
    f'{mean["follows_caption"]:.0%} move as captioned (chance 25 %), {mean["keeps_color"]:.0%} '
    f'keep the colour, {line}'
  )


def _is_mean(value):
  return isinstance(value, dict)


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Of the trained run.')
  flags.DEFINE_string('output', None, 'Folder for the report; default WORKDIR/evaluation.')
  flags.DEFINE_integer('num_examples', 64, 'Held-out (image, caption) pairs.')
  flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'Averaged or last weights.')
  flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
  flags.DEFINE_integer('seed', 0, 'Of the start noise.')
  flags.DEFINE_integer('steps', None, "Of the sampler; default the run's.")
  flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_string('refine_workdir', None, 'Of a trained refinement stage.')
  flags.DEFINE_integer('refine_steps', None, "Of its sampler; default the run's.")
  flags.DEFINE_float('refine_guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_string('refine_sampler', None, "Default the run's.")
  flags.DEFINE_integer('refine_levels', None, "Noise levels laid on and taken off; the run's.")
  flags.DEFINE_integer('loss_bins', 0, 'Also the loss in so many bins of noise levels.')
  flags.DEFINE_string('clip', None, "Folder of transformers' CLIP, for scores by it.")
  flags.DEFINE_string('video_features', None, 'TorchScript file or module:function, for FVD.')
  flags.DEFINE_string('frame_features', None, 'The same for FID, called with videos of one frame.')
  flags.DEFINE_string('vbench', None, "Folder to write CAPTION-INDEX.mp4 to, VBench's layout.")
  cli.require('workdir')
  cli.run(main)
