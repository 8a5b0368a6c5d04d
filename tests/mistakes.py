"""Mistakes that people make with the commands, and what each is told.

In a command line, {corpus} is a folder with the ingested videos/ and images/, {run} a finished run
of tests/tiny.py, {refines} the config of a refinement stage, {failed} a workdir that saved nothing,
{finetuned} a folder with run/ in it,
{raw} a folder of clips, {clip} one of them, {empty} an empty folder, {image} a picture, {list} a
list of one picture, and {new} a path that is not there. NAME=VALUE before a command is of its
environment.
"""

import dataclasses

from i2vgen_jax.process import exit_codes
from tests import commands


@dataclasses.dataclass(frozen=True)
class Row:
  """One command line.

  Attributes:
    line: what is typed after `python -m`; or a script.
    says: what the one line of its error holds: the value, and the way out.
    code: its exit code; commands.COMPILES where all is accepted and compilation begins.
    why: the reason, where it is accepted.
  """

  line: str
  says: tuple[str, ...] = ()
  code: int = exit_codes.USAGE
  why: str = ''


def refused(line: str, *says: str, code: int = exit_codes.USAGE) -> Row:
  """A row that ends in an error."""
  return Row(line, says, code)


def accepted(line: str, why: str, code: int = commands.COMPILES) -> Row:
  """A row that does what it is told."""
  return Row(line, (), code, why)


DEMO = '--config=configs/demo.py:corpus={corpus} '
TINY = '--config=tests/tiny.py:{corpus} '
BASE = '--config=configs/base.py:mesh=cpu,corpus={corpus} '
POD = '--config=configs/base.py:mesh=v5p-128 '
TRAIN = f'i2vgen_jax.train --workdir={{new}} {DEMO}'
TRAIN_TINY = f'i2vgen_jax.train --workdir={{new}} {TINY}'
TRAIN_BASE = f'i2vgen_jax.train --workdir={{new}} {BASE}'
SAMPLE_RUN = 'i2vgen_jax.sample --workdir={run} '
TO = '--prompt=x --output={new}.mp4 '
SAMPLE = f'{SAMPLE_RUN}--image={{image}} {TO}'
DEMO_TOKENIZER = '--config.tokenizer=i2vgen_jax/demo/tokenizer '
NO_BUCKET = 'STORAGE_EMULATOR_HOST=http://localhost:9 '
MAKE_A_CORPUS = 'Make one: python -m data_pipelines ingest'
CHECK_PATH = 'Check the path'

# By their numbers in the list of what was tried first.
LISTED = {
  '01 a typo': refused(
    TRAIN + '--config.train.logevery=10', 'config.train', "'logevery'", 'did you mean train.log_e'
  ),
  '02 a field of another name': refused(
    TRAIN + '--config.optimizer.peak_lr=1e-4', "'peak_lr'", 'optimizer.peak_learning_rate'
  ),
  '03 steps in letters': refused(
    TRAIN + '--config.train.num_steps=abc', 'num_steps=abc must be a whole number, such as 1000'
  ),
  '04 steps as a float': refused(
    TRAIN + '--config.train.num_steps=1e3', 'num_steps=1e3 must be a whole number, such as 1000'
  ),
  '05 no config': refused('i2vgen_jax.train --workdir={new}', '--config is missing: give --config'),
  '06 no workdir': refused('i2vgen_jax.train ' + DEMO, '--workdir is missing: give --workdir='),
  '07 no such config': refused(
    'i2vgen_jax.train --config=configs/nope.py --workdir={new}', 'configs/nope.py is no file',
    'there are configs/base.py, ',
  ),
  '08 a config by its stem': refused(
    'i2vgen_jax.train --config=demo --workdir={new}', '=demo is no file', 'mean configs/demo.py?'
  ),
  '09 a typo in an argument of a config': refused(
    'i2vgen_jax.train --config=configs/demo.py:corpse={corpus} --workdir={new}',
    "'corpse={corpus}' is unknown; known: corpus, steps, images",
  ),
  '10 no such corpus': refused(
    'i2vgen_jax.train --config=configs/demo.py:corpus=/nope --workdir={new}', '/nope/',
    MAKE_A_CORPUS,
  ),
  '11 a corpus that is not ingested': refused(
    'i2vgen_jax.train --config=configs/demo.py:corpus={raw} --workdir={new}', '{raw}/',
    MAKE_A_CORPUS,
  ),
  '12 a flag of another program': refused(TRAIN + '--lr=3', "'lr'", '--help lists all'),
  '13 a batch that two devices cannot share, on one': refused(
    TRAIN + '--config.data.buckets.videos.batch_size=7 --config.mesh.data=2',
    'needs 2 devices, but there are 1', 'Change --config.mesh',
  ),
  '14 more devices than there are': refused(
    TRAIN + '--config.mesh.data=3', "'data': 3", 'there are 1. Change --config.mesh'
  ),
  '15 a mesh of another size': refused(
    'i2vgen_jax.train --config=configs/base.py:mesh=v5p-127 --workdir={new}', "mesh='v5p-127'",
    'known: all, fsdp, cpu',
  ),
  '16 base without its networks': refused(
    TRAIN_BASE, "tokenizer=''", 'Point --config.tokenizer to the tokenizer/ folder'
  ),
  '17 a call of dict': refused(
    TRAIN_BASE + '''"--config.data.directories=dict(videos='{raw}')"''', "dict(videos='{raw}')",
    'must be a dict of Python, such as {{',
  ),
  '18 weights that are not there': refused(
    TRAIN_TINY + '--config.vae.weights=vae.safetensors', 'vae.weights=vae.safetensors: No file'
  ),
  '19 a tokenizer that is not there': refused(
    TRAIN + '--config.tokenizer=tokenizer/', "'tokenizer/' is no folder with vocab.json", 'Point'
  ),
  '20 no frames': refused(
    TRAIN + '--config.data.buckets.videos.frames=0', 'frames=0 should be >= 1'
  ),
  '21 too many frames': refused(
    TRAIN + '--config.data.buckets.videos.frames=500', '500 frames', 'frames <= 8 at fps=8 would fi'
  ),
  '22 a height of 63': refused(
    TRAIN + '--config.data.buckets.videos.height=63', 'height=63 should be a multiple of 8'
  ),
  '23 a workdir in /proc': refused(
    f'i2vgen_jax.train {TINY} --workdir=/proc/foo', '/proc/foo is not writable', 'another --workdir'
  ),
  '24 a workdir below a file': refused(
    f'i2vgen_jax.train {TINY} --workdir={{image}}/x', '{image} is a file', 'another --workdir'
  ),
  '25 an unknown sampler': refused(
    TRAIN_TINY + '--config.sample.sampler=euler --config.train.sample_every=9', "sampler='euler'",
    'known: ddim',
  ),
  '26 no such start': refused(TRAIN + '--config.start=/nope', '/nope holds no config', CHECK_PATH),
  '27 an unknown optimizer': refused(
    TRAIN_TINY + '--config.optimizer.kind=adam', "kind='adam' is unknown; known: 'adamw', 'muon'"
  ),
  '28 an unknown conditioner': refused(
    TRAIN + '''"--config.unet.conditioners=({{'kind':'txt'}},)"''', "kind='txt'", 'known: first_f'
  ),
  '29 a workdir in a bucket that is away': refused(
    f'{NO_BUCKET} i2vgen_jax.train {TINY} --workdir=gs://bkt/x', 'storage fails', 'localhost:9',
    code=exit_codes.STORAGE,
  ),
  '30 a corpus in a bucket, without credentials': refused(
    'AWS_EC2_METADATA_DISABLED=true data_pipelines ingest --input=s3://bkt/in --output={new}',
    'Unable to locate credentials', 'Log in',
  ),
  '31 no such picture': refused(
    f'{SAMPLE_RUN} --image=nope.png {TO}', 'nope.png cannot be read: it does not exist.'
  ),
  '32 a text as picture': refused(
    f'{SAMPLE_RUN} --image=README.md {TO}', 'README.md cannot be read', 'none of JPEG, PNG'
  ),
  '33 an empty caption': accepted(
    SAMPLE + '--prompt=', 'it asks for a video without words, which training has seen'
  ),
  '34 a video in /proc': refused(
    SAMPLE + '--output=/proc/o.mp4', '/proc is not writable', 'Choose another --output'
  ),
  '35 a GIF': accepted(SAMPLE + '--output={new}.gif', 'the ending says what is written'),
  '36 a workdir without a run': refused(
    SAMPLE + '--workdir={raw}', '{raw} holds no config.json', CHECK_PATH
  ),
  '37 no such step': refused(SAMPLE + '--step=7', 'checkpoint 7; there are [1, 2, 3, 4, 5, 6]'),
  '38 no picture': refused(SAMPLE_RUN + TO, 'Give --image=FILE and --prompt=TEXT'),
  '39 a width of 65': refused(
    SAMPLE + '--width=65', '65x32 must be multiples of 8 pixels', '64x32 is the nearest'
  ),
  '40 minus one frame': refused(SAMPLE + '--frames=-1', 'frames=-1 must be at least 1'),
  '41 export as ONNX': refused(
    'i2vgen_jax.export --workdir={run} --format=onnx --output={new}', 'onnx', 'should be one of <di'
  ),
  '42 an export that is there': refused(
    'i2vgen_jax.export --workdir={run} --output={raw}', "'{raw}' exists: remove it or choose"
  ),
  '43 adapters of a run without': refused(
    'i2vgen_jax.export --workdir={run} --format=peft --output={new}', '--format=peft', 'rank is 0'
  ),
  '44 machines of another size': refused(
    f'launch gke {POD} --topology=v5p-127 --workdir=gs://b/r --image=i', "'v5p-127'", 'known: v5e-'
  ),
  '45 another mesh than machines': refused(
    f'launch gke {POD} --topology=v5p-64 --workdir=gs://b/r --image=i', 'there are 32. Change --con'
  ),
  '46 an unknown target': refused(
    f'launch k8s {POD} --topology=v5p-128 --workdir=gs://b/r', "'k8s' is unknown; known: local"
  ),
  '47 a target with a dash': refused(
    f'launch tpu-vm {POD} --topology=v5p-128 --workdir=gs://b/r', "'tpu-vm' is unknown", 'tpu_vm'
  ),
  '48 paths of this machine on a cluster': refused(
    f'launch gke {POD} --topology=v5p-128 --workdir=/home/me/run --image=i '
    '--config.vae.weights=/home/me/vae.safetensors',
    '--workdir=/home/me/run is on this machine alone', 'all hosts share, gs://',
  ),
  '49 no such pipeline': refused(
    'i2vgen_jax.load --config=configs/base.py --pipeline=i2vgen-xl --output={new}',
    "'i2vgen-xl' has no model_index.json: it is no folder of a diffusers pipeline",
  ),
  '50 a name on the Hub': refused(
    'i2vgen_jax.load --config=configs/base.py --pipeline=ali-vilab/i2vgen-xl --output={new}',
    "'ali-vilab/i2vgen-xl' has no", 'hf download ali-vilab/i2vgen-xl --local-dir',
  ),
  '51 no such input': refused(
    'data_pipelines ingest --input=/nope --output={new}', '/nope does not exist: check the path'
  ),
  '52 an input without media': refused(
    'data_pipelines ingest --input=configs --output={new}', "it holds {{'.py':", 'no media (.mp4'
  ),
  '53 plan for a GPU by its name': refused(
    f'i2vgen_jax.plan {POD} --topology=h100-8', "'h100-8' is unknown; known: v5e-"
  ),
  '54 a context of another width': refused(
    f'i2vgen_jax.train {TINY} --workdir={{run}} --config.unet.context_dim=32',
    'unet.context_dim=32 must equal text_encoder.model.hidden_size=64',
  ),
  '55 another learning rate in the same workdir': refused(
    f'i2vgen_jax.train {TINY} --workdir={{run}} --config.optimizer.peak_learning_rate=1e-4',
    'peak_learning_rate: 0.002 -> 0.0001', 'Use another --workdir',
  ),
  '56 once more, after a start that failed': accepted(
    f'i2vgen_jax.train {TINY} --workdir={{failed}}', 'a start that saved no step does not bind'
  ),
  '57 a batch that two devices cannot share': refused(
    f'DEVICES=2 {TRAIN} --config.data.buckets.videos.batch_size=7', '=7 must be a multiple of 2',
    'Change batch_size, or put devices on another axis of the mesh, such as context',
  ),
  '58 no such run': refused('i2vgen_jax.evaluate --workdir=/nope', '/nope holds no', CHECK_PATH),
  '59 more clips than are held out': accepted(
    'i2vgen_jax.evaluate --workdir={run} --num_examples=100000',
    'all that there are are measured, and a warning says how many',
  ),
  '60 a typo in SQL': refused(
    'data_pipelines index --corpus={corpus}/videos --output={new} "--where=motoin > 0.1"',
    '"motoin" not found', 'Columns: duration',
  ),
  '61 a package in place of a command': refused(
    'i2vgen_jax', 'python -m i2vgen_jax is no command', 'train finetune status'
  ),
  '62 a corpus command without its name': refused('data_pipelines', 'command', '--help lists'),
  '63 a typo in a command': refused('data_pipelines ingets', "'ingets'", "'ingest'"),
  '64 abbreviated flags': refused(
    'data_pipelines ingest --in=x --out=y', '--input, --output', '--help lists'
  ),
  '65 the tokenizer of another model': refused(
    TRAIN_BASE + DEMO_TOKENIZER, '856 tokens', 'vocab_size=49408', 'Give the tokenizer of its own'
  ),
  '66 the same, and directories of a dict': refused(
    TRAIN_BASE + DEMO_TOKENIZER + '''"--config.data.directories={{'mine': '{raw}'}}"''',
    '856 tokens', 'Give the tokenizer of its own',
  ),
  '67 one more directory': refused(
    TRAIN_BASE + '--config.data.directories.mine={raw}', "'mine'", 'give all, as --config.data.dir'
  ),
  '68 a directory that is not ingested': refused(
    TRAIN + '--config.data.directories.videos={raw}', '{raw} holds no', MAKE_A_CORPUS
  ),
  '69 no such list': refused(
    SAMPLE_RUN + '--list=nope.txt --output={new}', 'nope.txt cannot be read: it does not exist.'
  ),
  '70 a list of something else': refused(
    SAMPLE_RUN + '--list=README.md --output={new}', 'README.md holds no image|||caption', ' more.'
  ),
  '71 a learning rate below 0': refused(
    TRAIN + '--config.optimizer.peak_learning_rate=-1', 'learning_rate=-1.0 must lie in [0, inf)'
  ),
  '72 a type by another name': refused(
    TRAIN + '--config.dtype=fp16', "dtype='fp16' is unknown; known: bfloat16"
  ),
  '73 maybe': refused(TRAIN + '--config.train.tensorboard=maybe', '=maybe must be true or false'),
  '74 flags with spaces': refused(
    'i2vgen_jax.train --config tests/tiny.py:{corpus} --workdir {new} --config.optimizer.kind adam',
    "optimizer.kind='adam' is unknown; known: 'adamw'",
  ),
  '75 a flag with a dash': refused(
    SAMPLE + '--negative-prompt=x', "'negative-prompt'", 'did you mean --negative_prompt?'
  ),
  '76 adapters of random weights': refused(
    TRAIN + '--config.lora.rank=8', 'lora.rank=8', 'give --config.start=FOLDER'
  ),
  '77 a log every 0 steps': refused(
    TRAIN + '--config.train.log_every=0', 'train.log_every=0 must lie in [1, inf)'
  ),
  '78 curate what is not ingested': refused(
    'data_pipelines curate --corpus={raw}', '{raw} holds no', MAKE_A_CORPUS
  ),
  '79 a report about nothing': refused(
    'data_pipelines report --corpus=/nope --output={new}', '/nope holds no', MAKE_A_CORPUS
  ),
  '80 a seed in letters': refused(SAMPLE + '--seed=abc', '--seed=abc must be a whole number'),
  '81 a typo for the quickstart': refused(
    'launch/quickstart.sh --video /x', '--video is unknown; known: --videos DIR'
  ),
  '82 a folder of clips that is not there': refused(
    'launch/quickstart.sh --videos {new} --output {new}', '--videos {new} does not exist', 'check'
  ),
  '83 a pod that is not there yet': accepted(
    'launch gke --config=configs/base.py:mesh=v5e-64 --topology=v5e-64 --workdir=gs://b --image=i',
    'nothing starts without --go; `launch check` looks further',
    exit_codes.DONE,
  ),
  '84 GPUs by Slurm': accepted(
    'launch slurm --config=configs/base.py:mesh=gpu-8 --topology=gpu-8 --workdir=/shared/run',
    'nothing starts without --go; a cluster shares the path',
    exit_codes.DONE,
  ),
  '85 a command that has moved': refused(
    'data_pipelines precompute --help', 'run python -m i2vgen_jax.precompute --help'
  ),
  '86 a text as weights': refused(
    f'i2vgen_jax.load {TINY} --unet=README.md --output={{new}}', '--unet=README.md', '.safetensors'
  ),
  '87 a run in a bucket that is away': refused(
    f'{NO_BUCKET} {SAMPLE} --workdir=gs://b/r', 'storage fails', 'localhost:9',
    code=exit_codes.STORAGE,
  ),
}  # fmt: skip

FINETUNE = 'i2vgen_jax.finetune --weights={run} --videos={raw} --output={new} '
REFINE = f'i2vgen_jax.sample --workdir={{refines}} {TO}'
EXPORT = 'i2vgen_jax.export --workdir={run} --output={new} '
LOAD = f'i2vgen_jax.load {TINY} --output={{new}} '
LAUNCH = f'launch local --topology=cpu-1 {DEMO} --workdir={{new}} '
PLAN = f'i2vgen_jax.plan {DEMO} --topology=v5p-8 '
PRECOMPUTE = f'i2vgen_jax.precompute {DEMO} --output={{new}} '
PRECOMPILE = f'i2vgen_jax.precompile {DEMO} --workdir={{new}} '
PREFLIGHT = f'i2vgen_jax.preflight {DEMO} --workdir={{new}} '
EVALUATE = 'i2vgen_jax.evaluate --workdir={run} '
INDEX = 'data_pipelines index --corpus={corpus}/videos --output={new} '
INGEST = 'data_pipelines ingest --input={raw} --output={new} '
NOT_BELOW = 'is not a non-negative'
MORE = {
  'a shipped model that is none': refused(
    SAMPLE + '--workdir=builtin:none', 'builtin:none is unknown; known: builtin:demo'
  ),
  'finetune: a comma in a folder': refused(FINETUNE + '--output={new},v2', 'v2 has a comma'),
  'finetune: a name on the Hub': refused(
    FINETUNE + '--weights=ali-vilab/i2vgen-xl', 'does not exist', 'hf download ali-vilab/i2vgen-xl'
  ),
  'finetune: clips and weights swapped': refused(
    FINETUNE + '--weights={raw} --videos={run}', '{raw} is no diffusers folder (model_index.json)'
  ),
  'finetune: a field without its block': refused(
    FINETUNE + '--set=rank=4', "'rank'", 'did you mean lora.rank?'
  ),
  'finetune: steps below 0': refused(FINETUNE + '--steps=-5', '--steps=-5', NOT_BELOW),
  'finetune: pixels as a size': refused(FINETUNE + '--pixels=448x256', '448x256', 'whole number'),
  'finetune: no such index': refused(FINETUNE + '--index=/nope', '/nope does not exist: check'),
  'sample: the folder above a run': refused(
    SAMPLE + '--workdir={finetuned}', '{finetuned} holds no config', 'Did you mean {finetuned}/run?'
  ),
  'evaluate: the folder above a run': refused(
    'i2vgen_jax.evaluate --workdir={finetuned}', 'Did you mean {finetuned}/run?'
  ),
  'train: a start from the folder above a run': refused(
    'i2vgen_jax.train --config=configs/finetune.py:start={finetuned},corpus={corpus}/videos '
    '--workdir={new}', 'start={finetuned} holds no config', 'Did you mean {finetuned}/run?',
  ),
  'finetune: the folder above a run': refused(
    FINETUNE + '--weights={finetuned}', 'Did you mean {finetuned}/run?'
  ),
  'peek: the folder above a run': refused(
    'data_pipelines peek --workdir={finetuned} --step=0 --output={new}', 'mean {finetuned}/run?'
  ),
  'sample: a folder of pictures': refused(
    f'{SAMPLE_RUN} --image={{raw}} {TO}', '--image={raw} is a folder', 'many pictures, --list=FILE'
  ),
  'sample: a folder as list': refused(
    f'{SAMPLE_RUN} --list={{raw}} --output={{new}}', 'list {raw} cannot be read: it is a folder,'
  ),
  'sample: a folder as video': refused(
    REFINE + '--video={raw}', 'video {raw} cannot be read: it is a folder, not a file.'
  ),
  'sample: a video to a base stage': refused(
    f'{SAMPLE_RUN} --video={{clip}} {TO}', '{run} is no refinement stage', 'give one'
  ),
  'sample: faster than the video': refused(
    REFINE + '--video={clip} --fps=1000', 'fps=1000.0 exceeds the 8 of video', 'give less'
  ),
  'sample: a picture as video': refused(REFINE + '--video={image}', '{image} cannot', 'none of mo'),
  'sample: a video as picture': refused(
    f'{SAMPLE_RUN} --image={{clip}} {TO}', '{clip} cannot be read', 'it is a video: give a picture'
  ),
  'sample: no caption': refused(
    SAMPLE_RUN + '--image={image} --output={new}.mp4', 'reads captions: give --prompt=TEXT'
  ),
  'sample: steps below 0': refused(SAMPLE + '--steps=-3', 'num_steps=-3 must lie in [1, inf)'),
  'sample: no number': refused(SAMPLE + '--guidance=nan', '--guidance=nan must be a number'),
  'sample: endless frames': refused(SAMPLE + '--fps=inf', 'fps=inf must be above 0, and finite'),
  'sample: a base stage to refine': refused(
    SAMPLE + '--refine_workdir={run}', '{run} is no refinement stage: its config.refine.levels is 0'
  ),
  'sample: a flag of refinement alone': refused(
    SAMPLE + '--refine_steps=10', '--refine_steps=10', 'give --refine_workdir=RUN'
  ),
  'sample: more noise than was trained': refused(
    SAMPLE + '--refine_workdir={refines} --refine_levels=5000', 'levels=5000', '(0, 1000)'
  ),
  'sample: the part after the last': refused(
    SAMPLE_RUN + '--list={list} --output={new} --part=2/2', '--part=2/2 must be I/N with 0 <= I < N'
  ),
  'sample: a caption beside a list': refused(
    SAMPLE_RUN + '--list={list} --prompt=x --output={new}', 'or else --list=FILE'
  ),
  'sample: a picture that nothing reads': refused(
    SAMPLE + '--last_image={image}', 'last_image={image}', 'leave it out'
  ),
  'sample: a condition of another model': refused(
    SAMPLE + '--condition=depth=1', 'depth=1', 'leave it out'
  ),
  'sample: a seed of 20 digits': refused(
    SAMPLE + '--seed=99999999999999999999', '99999999999999999999', 'range [0, 4294967295]'
  ),
  'export: two lines as licence': refused(
    EXPORT + '"--license=mit\nextra: 1"', r'mit\nextra', 'such as apache-2.0'
  ),
  'export: a licence by its title': refused(
    EXPORT + '"--license=Apache License 2.0"', "'Apache License 2.0'", 'such as apache-2.0'
  ),
  'export: adapters beside diffusers': refused(
    EXPORT + '--lora=beside', '--lora=beside is for --format=torch of a run', 'leave it out'
  ),
  'export: fp16': refused(EXPORT + '--dtype=fp16', 'fp16', '<float32|float16|bfloat16>'),
  'load: no U-Net': refused(LOAD + '--vae={raw}', 'No U-Net to load: give --unet'),
  'load: a network that the model lacks': refused(LOAD + '--unet=x --t5=t5', '--t5', 'no block t5'),
  'launch: a variable without value': refused(LAUNCH + '--env=A', "'A'", 'write NAME=VALUE'),
  'launch: a line break': refused(LAUNCH + '"--env=A=b\nc"', r'\n', 'leave out line breaks'),
  'launch: a secret': refused(LAUNCH + '--env=MY_API_KEY=abc', 'MY_API_KEY', 'Kubernetes secret'),
  'launch: emoji in the name': refused(LAUNCH + '--name=run🎬', 'run🎬', 'a-z, 0-9 and -'),
  'launch: a name of capitals': refused(LAUNCH + '--name=My_Run', "'My_Run'", 'a-z, 0-9 and -'),
  'launch: restarts below 0': refused(LAUNCH + '--max_restarts=-1', '=-1', NOT_BELOW),
  'launch check: no machines': refused(
    f'launch check {DEMO} --workdir={{new}}', '--topology is missing: give --topology='
  ),
  'launch: a field before its config': refused(
    f'launch local --config.unet.remat=none --topology=cpu-1 {DEMO} --workdir={{new}}',
    '--config.unet.remat=none stands before --config=FILE: put --config first',
  ),
  'launch preflight: two words for a flag': refused(
    'launch preflight --topology=cpu-1 --config configs/demo.py --workdir={new}',
    'write --config=VALUE, in one piece',
  ),
  'launch: a control character in a path': refused(
    LAUNCH + '"--workdir=/tmp/a\x07b"', r'\x07', 'leave out line breaks and control characters'
  ),
  'launch: a flag of plan': refused(LAUNCH + '--mfu=0.4', "'mfu'", '--help lists all'),
  'plan: a price below 0': refused(PLAN + '--price_per_chip_hour=-3', '-3.0 must be 0 or more'),
  'plan: a price with its unit': refused(
    PLAN + '--price_per_chip_hour=$3', '=$3 must be a number, such as 0.5'
  ),
  'plan: a share in percent': refused(PLAN + '--mfu=40', '--mfu=40.0 must lie in (0, 1]'),
  'plan: memory below 0': refused(PLAN + '--sample --memory_gib=-16', '-16', NOT_BELOW),
  'plan: no memory': refused(PLAN + '--memory_gib=nan', '--memory_gib=nan must be a number'),
  'plan: a bucket of another config': refused(
    PLAN + '--bucket=f16_at_8', "'f16_at_8' is unknown; known: images, videos"
  ),
  'plan: a GPU by its name': refused(
    PLAN + '--topology=a100', "'a100' is unknown; known: v5e-", '1024]; 2x before it is two slices.'
  ),
  'plan: GPUs': refused(PLAN + '--topology=gpu-8', "'gpu-8'", 'such as v5p-128'),
  'plan: no libtpu': refused(f'ABSENT=libtpu {PLAN} --compile', 'v5p:2x2x1', 'pip install libtpu'),
  'precompute: no number': refused(PRECOMPUTE + '--fps=nan', '--fps=nan must be a number'),
  'precompute: frames below 0': refused(
    PRECOMPUTE + '--max_frames=-1', 'max_frames=-1', 'with a larger --max_frames'
  ),
  'precompute: a file': refused(PRECOMPUTE + '--output={image}', '{image} is a file', 'another --'),
  'precompile: other devices': refused(
    PRECOMPILE + '--topology=gpu-8', 'gpu-8 has 8 devices, and here are 1', 'only TPUs'
  ),
  'precompile: no cache': refused(
    PRECOMPILE + '--topology=cpu-1 --config.compilation.cache=', "cache='' keeps", 'name a folder'
  ),
  'preflight: one step': refused(PREFLIGHT + '--steps=1', '--steps=1', 'must be at least 2'),
  'preflight: a share in percent': refused(PREFLIGHT + '--mfu=55', '--mfu=55.0 must lie in (0, 1]'),
  'evaluate: no clips': refused(EVALUATE + '--num_examples=0', '=0', 'positive integer'),
  'evaluate: bins below 0': refused(EVALUATE + '--loss_bins=-2', '-2', NOT_BELOW),
  'evaluate: a file': refused(EVALUATE + '--output={image}', '{image} is a file', 'another --outp'),
  'evaluate: a run whose corpus is elsewhere': refused(
    'i2vgen_jax.evaluate --workdir={moved}', 'trained on /gone/videos, ', '--corpus=DIR takes'
  ),
  'evaluate: no corpus': refused(
    EVALUATE + '--corpus=/nope', '/nope holds no ingested corpus', 'ingest --input='
  ),
  'evaluate: a name on the Hub': refused(
    EVALUATE + '--clip=openai/clip-vit-base-patch32', 'openai/clip-vit-base-patch32 has no config'
  ),
  'ablate: a refinement stage': refused(
    'i2vgen_jax.ablate --workdir={refines}', '{refines} is a refinement', 'give a base stage'
  ),
  'ablate: no steps': refused('i2vgen_jax.ablate --workdir={run} --steps=0', '=0 must lie in [1'),
  'replay: the last step': refused(
    'i2vgen_jax.replay --workdir={run} --step=6', '[1, 2, 3, 4, 5, 6]: --step must be one of them'
  ),
  'replay: a config as workdir': refused(
    'i2vgen_jax.replay --workdir=configs/demo.py', 'configs/demo.py holds no', CHECK_PATH
  ),
  'status: a run without its flag': refused('i2vgen_jax.status {run}', '--workdir', '--help lists'),
  'status: a folder without a run': accepted(
    'i2vgen_jax.status --workdir={raw}', 'a run that is to start has left nothing', exit_codes.DONE
  ),
  'index: two statements': refused(
    INDEX + '"--where=duration > 0.1; DROP TABLE sidecars"', 'DROP TABLE', 'Columns: duration'
  ),
  'index: nothing left': refused(
    INDEX + '"--where=duration > 1e9"', 'duration > 1e9: 0', 'change --where="duration > 1e9"'
  ),
  'index: draws without epochs': refused(
    INDEX + '--num_draws=600', 'num_draws=600 lacks max_epochs: give --max_epochs=E, how often'
  ),
  'index: epochs without draws': refused(
    INDEX + '--max_epochs=3', 'max_epochs=3 lacks num_draws: give --num_draws=N, the examples'
  ),
  'index: no number': refused(INDEX + '--alpha=nan', '--alpha=nan must be a number'),
  'index: a score that is not there': refused(INDEX + '--axes=beauty', "'beauty'; columns:"),
  'index: two corpora of a name': refused(
    INDEX + '--corpus={corpus}/videos', 'should have different names: --corpus=NAME=DIR'
  ),
  'ingest: a clip': refused(
    INGEST + '--input={clip}', '{clip} is one file: give the folder that it lies in, {raw}'
  ),
  'ingest: a clip as a folder': refused(
    INGEST + '--input={clip} --layout=folder', '{clip} is one file: give the folder'
  ),
  'ingest: an empty folder': refused(
    INGEST + '--input={empty}', '{empty} is empty: put clips there, <name>.txt beside each'
  ),
  'ingest: nothing, as a folder': refused(
    INGEST + '--input={empty} --layout=folder', '{empty} holds no videos or images: put clips'
  ),
  'sample: a typo in a flag': refused(
    f'{SAMPLE_RUN} --imge={{image}} {TO}', "flag 'imge'", 'did you mean --image? --help lists all'
  ),
  'evaluate: a flag of another name': refused(
    EVALUATE + '--num_clips=1', "'num_clips'", 'did you mean --clip or --num_examples? --help'
  ),
  'ingest: a typo in a flag': refused(
    INGEST + '--num_proceses=1', '--num_proceses', 'did you mean --num_processes?', '--help lists'
  ),
  'status: a typo in a flag': refused(
    'i2vgen_jax.status --wrkdir={run} --workdir={run}', '--wrkdir', 'did you mean --workdir?'
  ),
  'finetune: a clip': refused(
    FINETUNE + '--videos={clip}', '{clip} is one file: give the folder that it lies in'
  ),
  'finetune: an empty folder': refused(FINETUNE + '--videos={empty}', '{empty} is empty: put'),
  'inspect: by the flag of ingest': accepted(
    'data_pipelines inspect --input={raw} --num_examples=1', 'both take it', exit_codes.DONE
  ),
  'inspect: two paths': refused(
    'data_pipelines inspect {raw} --input={raw}', '--input: not allowed with argument path'
  ),
  'inspect: no path': refused('data_pipelines inspect', 'path --input is required', '--help lists'),
  'ingest: an unknown layout': refused(INGEST + '--layout=coco', "layout='coco'", "'webvid'"),
  'ingest: the layout of other files': refused(
    INGEST + '--layout=webvid', '{raw} holds nothing of --layout=webvid', 'leave it out'
  ),
  'ingest: a share in percent': refused(
    INGEST + '--validation_fraction=5', '=5.0 should be in [0, 1)'
  ),
  'ingest: no processes': refused(INGEST + '--num_processes=0', '0 must be at least 1'),
  'curate: no number': refused(
    'data_pipelines curate --corpus={corpus}/videos --min_motion=nan', '=nan must be a number'
  ),
  'config: a field too deep': refused(
    TRAIN + '--config.train.num_steps.total=5', 'config.train.num_steps is a value, 320'
  ),
  'config: a field too high': refused(
    TRAIN + '--config.num_steps=5', "'num_steps'", 'did you mean train.num_steps, sample.num_steps?'
  ),
  'config: a field of another block': refused(
    TRAIN + '--config.train.peak_learning_rate=1', 'did you mean optimizer.peak_learning_rate?'
  ),
  'config: a typo four levels deep': refused(
    TRAIN + '--config.data.buckets.videos.heigth=64', "'heigth'", 'data.buckets.videos.height'
  ),
  'config: a call for a dict': refused(
    TRAIN + '''"--config.optimizer.groups=(dict(match='temp_'), )"''',
    "(dict(match='temp_'), ) must", "write \"({{'match': ...}},)\"",
  ),
  'config: a typo in a block': refused(
    TRAIN + '--config.optimiser.b1=0.9', "'optimiser'", 'did you mean optimizer'
  ),
  'config: a number for a block': refused(TRAIN + '--config.train=5', '=5 must be a dict of Pytho'),
  'config: one field for a block': refused(
    TRAIN + '''"--config.unet={{'dropout': 0.1}}"''', 'would leave out', 'config.unet.dropout=VALUE'
  ),
  'config: one field for a bucket': refused(
    TRAIN + '''"--config.data.buckets={{'mine': {{'frames': 8}}}}"''', "'mine' lacks ['batch_size'"
  ),
  'config: no number': refused(
    TRAIN + '--config.optimizer.weight_decay=nan', 'weight_decay=nan must lie in [0, inf)'
  ),
  'config: texts for numbers': refused(
    TRAIN + '''"--config.unet.block_channels=('32', '64')"''', "'32' is no int, as in (32, 64)"
  ),
  'config: shares for steps': refused(
    TRAIN + '"--config.loss.timestep_range=(0.0, 1.0)"', '0.0 is no int, as in (0, 1000)'
  ),
  'config: seconds below 0': refused(
    TRAIN + '--config.watchdog.step_secs=-1', 'watchdog.step_secs=-1.0 must lie in [0, inf)'
  ),
  'config: no checkpoint is kept': refused(
    TRAIN + '--config.checkpoint.keep_last=0', 'checkpoint.keep_last=0 must lie in [1, inf)'
  ),
  'config: no threads': refused(
    TRAIN + '--config.data.num_threads=0', 'data.num_threads=0 must lie in [1, inf)'
  ),
  'config: a rate in percent': refused(
    TRAIN + '--config.condition_dropout.text=10', 'text=10.0 must lie in [0, 1]'
  ),
  'config: a weight below 0': refused(
    TRAIN + '--config.data.buckets.videos.weight=-1', 'weight=-1.0 should be > 0; leave the bucket'
  ),
  'config: a word of diffusers': refused(
    TRAIN + '--config.loss.prediction_type=epsilon', "'epsilon' is unknown; known: x0, eps, v"
  ),
  'config: flags of XLA': refused(
    TRAIN + '--config.compilation.profile=fast', "profile='fast' is unknown; known: none, tpu"
  ),
  'config: whole numbers for weights': refused(
    TRAIN_TINY + '--config.start={run} --config.lora.rank=4 --config.lora.frozen_dtype=int8',
    "frozen_dtype='int8' is unknown; known: bfloat16",
  ),
  'config: a start of another model': refused(
    TRAIN + '--config.start={run}', '{run} is of another model', 'unet.norm_groups: 4 -> 16'
  ),
  'config: a seed of 11 digits': refused(
    TRAIN + '--config.seed=99999999999', 'seed=99999999999 must lie in [0, 4294967296)'
  ),
  'config: a word for a number in an argument': refused(
    'i2vgen_jax.train --config=configs/demo.py:steps=many --workdir={new}',
    "'steps=many' must be a whole number",
  ),
  'config: a comma in a path': refused(
    'i2vgen_jax.train --config=configs/demo.py:corpus=/data/a,b --workdir={new}', "'b' is unknown",
    'paths have none',
  ),
  'config: a space in an argument': refused(
    'i2vgen_jax.train "--config=configs/demo.py: corpus=x" --workdir={new}', "' corpus=x' is unkno"
  ),
  'config: an override before the config': refused(
    f'i2vgen_jax.train --config.train.num_steps=5 {DEMO} --workdir={{new}}',
    '--config.train.num_steps=5 stands before --config', 'put --config first',
  ),
  'config: no dashes': refused(
    'i2vgen_jax.train config=configs/demo.py workdir={new}', 'write --workdir={new}'
  ),
  'config: the config of a run': refused(
    'i2vgen_jax.train --config={run}/config.json --workdir={new}', 'must be a Python file, such as'
  ),
  'config: swapped with the workdir': refused(
    'i2vgen_jax.train --config={new} --workdir=configs/demo.py', '{new} is no file', 'there are con'
  ),
  'train: a file as workdir': refused(
    f'i2vgen_jax.train {TINY} --workdir=README.md', 'README.md is a file', 'another --workdir'
  ),
  'train: fewer steps than before': refused(
    f'i2vgen_jax.train {TINY} --workdir={{run}} --config.train.num_steps=3',
    'num_steps=3, and the run was started with 6', '--config.train.stop_at=3',
  ),
}  # fmt: skip
ROWS = LISTED | MORE
