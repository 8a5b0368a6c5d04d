"""Measures what each image condition contributes: the paper's ablation.

  python -m i2vgen_jax.ablate --workdir=DIR [--output=DIR/ablation] [--train]

Compares a base stage as it is with the stage without each of its conditioners that has a word for
it: for the release these are the global tokens of the image's latents, its detail latents beside
the noise, and CLIP's tokens. Without --train, the run's own weights lose one conditioner's
parameters, which tells how far this model relies on it. With --train, each variant is trained by
the run's config into OUTPUT, as in the paper, which tells what a model can do without it.

Writes table.md, report.json, contact_sheet.png (per clip: real, then the variants) and videos/.
"""

from absl import flags

from i2vgen_jax.process import cli, run_flags

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  run_flags.define_base()
  flags.DEFINE_string('output', None, 'Folder for the report; default WORKDIR/ablation.')
  flags.DEFINE_bool('train', False, 'Train each variant; else take the weights out.')
  flags.DEFINE_integer('num_examples', 32, 'Number of held-out clips.', lower_bound=1)
  flags.mark_flags_as_required(['workdir'])
  cli.run(__file__)

import dataclasses

import ml_collections
from absl import logging
from etils import epath

from i2vgen_jax import conditions, train
from i2vgen_jax import evaluate as evaluate_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.evaluation import report
from i2vgen_jax.models import lora
from i2vgen_jax.process import exit_codes, output_folder
from i2vgen_jax.sampling import generate, held_out, stages
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import warm_start

# --train -> what the page says of the variants.
HOW = {
  True: "Each variant was trained by the run's config: what a model can do without it.",
  False: "Each variant has the run's weights but for one conditioner: what this model owes to it.",
}


def main() -> int:
  """Makes the variants, samples from all, and writes what they do; returns the exit code."""
  given = flags.FLAGS
  output = epath.Path(given.output or epath.Path(given.workdir) / 'ablation')
  output_folder.check_writable(output)
  session, _, _ = stages.prepare(given.workdir, num_steps=given.steps)
  if session.config.refine.levels:
    raise ValueError(
      f'{given.workdir} is a refinement stage, which is conditioned on text alone: give a base '
      'stage.'
    )
  variants = variants_of(session)
  run = stages.load(given.workdir, weights=given.weights, seed=given.seed, num_steps=given.steps)
  batch = held_out.clips(run.session, run.bucket, given.num_examples)
  videos = {'real': batch['video'], 'all conditions': held_out.sample(run, batch, given.seed)}
  for name, kind in variants.items():
    logging.info('%s: without %s', name, kind)
    if given.train:
      workdir = output / conditions.name_of(kind)
      if code := train.train(without(run_config.read(given.workdir), kind), workdir):
        logging.warning('Stopped while training %s. The same command goes on.', workdir)
        return code  # As train itself: launchers start it again.
      variant = stages.load(workdir, weights=given.weights, seed=given.seed, num_steps=given.steps)
    else:
      variant = take_out(run, kind, given.seed, given.workdir)
    videos[name] = held_out.sample(variant, batch, given.seed)

  found = evaluate_lib.measure_sets(videos, batch['video'], batch['caption'], run.bucket.fps)
  settings = dict(
    workdir=str(given.workdir), step=run.step, num_examples=len(batch['caption']), seed=given.seed,
    weights=given.weights, size=list(videos['real'].shape[1:4]), fps=run.bucket.fps,
    variants='trained' if given.train else 'conditioner taken out of the trained model',
    base=run.settings,
  )  # fmt: skip
  report.write_json(output / 'report.json', settings | found)
  (output / 'table.md').write_text(report.markdown_table(found))
  report.write_videos(output, videos, run.bucket.fps)
  report.write_sheet(output / 'contact_sheet.png', videos, batch['caption'], settings)
  report.write_page(
    output, 'Ablation', found, videos, batch['caption'], settings, summary=HOW[given.train]
  )
  print(report.markdown_table(found))
  print(f'{settings["variants"]}: {output}/index.html')
  return exit_codes.DONE


def variants_of(session: session_lib.Session) -> dict[str, str]:
  """{'no ...': kind} of the conditioners that ablations leave out.

  These are the conditioners whose class has a word for it (Conditioner.ablated), as long as a
  context token is left.

  Raises:
    ValueError: there is none.
  """
  lines = lora.bare(session.unet).conditioners
  variants = {}
  for line in lines:
    others = [other.conditioner.route for other in lines if other is not line]
    if line.conditioner.ablated and 'context' in others:
      variants[f'no {line.conditioner.ablated}'] = line.kind
  if not variants:
    raise ValueError(
      f'unet.conditioners are {[line.kind for line in lines]}: none of them can be left out.'
    )
  return variants


def without(config: ml_collections.ConfigDict, kind: str) -> ml_collections.ConfigDict:
  """The config of a model that lacks a conditioner."""
  # Copied through JSON, because the lines in a tuple are no ConfigDicts.
  config = ml_collections.ConfigDict(run_config.plain(config))
  config.unet.conditioners = tuple(
    line for line in config.unet.conditioners if line['kind'] != kind
  )
  return config.lock()


def take_out(run: stages.Stage, kind: str, seed: int, source: epath.PathLike) -> stages.Stage:
  """The stage with its own weights, but for those of one conditioner.

  Args:
    run: the whole stage.
    kind: of the conditioner to leave out.
    seed: of the noise that a sampler adds.
    source: workdir of the stage, which logs name.
  """
  config, whole = without(run.session.config, kind), run.session.config
  session = session_lib.build(config, source).on(run.session.mesh)
  session = dataclasses.replace(session, frozen=run.session.frozen, step=run.session.step)
  return dataclasses.replace(
    run,
    session=session,
    params=warm_start.restrict(
      run.params,
      session.abstract_params(),
      source,
      *(warm_start.input_names(each.unet.conditioners) for each in (whole, config)),
    ),
    generate=generate.make_generate(session, seed=seed, steps=run.steps, **run.settings),
    stepwise=None,
  )
