"""sample, evaluate and export as commands on a finished run."""

import json

import av
import numpy as np
import PIL.Image
import pytest

from data_pipelines import demo_corpus
from data_pipelines.ingest import command as ingest
from i2vgen_jax.process import exit_codes
from tests import runs
from tests.data_pipelines.score.test_score import clip_folder  # noqa: F401

torch = pytest.importorskip('torch')


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'picture.png'
  PIL.Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save(path)
  return path


def arguments(finished_run, picture, output):
  return [
    'i2vgen_jax.sample', f'--workdir={finished_run}', f'--image={picture}',
    '--prompt=a red circle moves left', f'--output={output}', '--steps=2',
  ]  # fmt: skip


def sample(finished_run, picture, output, *flags):
  return runs.module(*arguments(finished_run, picture, output), *flags)


def frames_of(path):
  with av.open(str(path)) as container:
    rate = container.streams.video[0].average_rate
    return np.stack([f.to_ndarray(format='rgb24') for f in container.decode(video=0)]), rate


def test_sample_writes_the_video_that_was_asked_for(finished_run, picture, tmp_path):
  long = 'a red circle moves left ' * 4
  flags = '--frames=5', '--fps=4', '--width=48', f'--prompt={long}'
  done = sample(finished_run, picture, tmp_path / 'a.mp4', *flags)
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'warning: --prompt is cut: the model reads 16 tokens, so' in done.stderr
  frames, rate = frames_of(tmp_path / 'a.mp4')
  assert frames.shape == (5, 32, 48, 3) and rate == 4


@pytest.mark.slow
def test_the_same_seed_gives_the_same_video_and_another_does_not(finished_run, picture, tmp_path):
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    done = sample(finished_run, picture, tmp_path / f'{name}.mp4', f'--seed={seed}')
    assert done.returncode == 0, done.stderr[-2000:]
  contents = [(tmp_path / f'{name}.mp4').read_bytes() for name in 'abc']
  assert contents[0] == contents[1] != contents[2]


MISTAKES = {
  '--workdir=/nowhere': 'no run was started there',
  '--image=/nowhere.png': '/nowhere.png cannot be read',
  '--height=33': '33',
  '--output=a.avi': 'must end in .mp4, .gif, .webp',
  '--step=7': 'no complete checkpoint 7',
  '--steps=2000': 'num_steps=2000',
  '--sampler=plms': 'dpmpp_2m_sde, heun',
  '--list=list.txt': 'or else --list=FILE',
}


def test_sample_names_mistakes_in_one_line(finished_run, picture, tmp_path):
  made = tmp_path / 'a.mp4'
  given = arguments(finished_run, picture, made)
  for flag, (code, _, stderr) in runs.commands({flag: [*given, flag] for flag in MISTAKES}).items():
    assert code == exit_codes.USAGE, f'{flag}: {stderr[-2000:]}'
    assert MISTAKES[flag] in stderr and 'Traceback' not in stderr, flag
  assert not made.exists()


def test_export_writes_a_card_and_says_how_to_publish(finished_run, tmp_path):
  run = ['i2vgen_jax.export', f'--workdir={finished_run}']
  lines = {
    form: [*run, f'--format={form}', f'--output={tmp_path / form}', '--license=openrail']
    for form in ('torch', 'diffusers', 'vgen', 'peft')
  }
  lines['beside'] = [*run, f'--output={tmp_path / "x"}', '--format=torch', '--lora=beside']
  done = runs.commands(lines)
  for form, complaint in (
    ('diffusers', 'unet.temporal_in_heads=2 cannot be expressed'),
    ('vgen', 'unet.temporal_in_heads=2 cannot be expressed'),
    ('peft', 'this run has none: lora.rank is 0'),
    ('beside', '--lora=beside is for --format=torch of a run with adapters'),
  ):
    code, _, stderr = done.pop(form)
    assert code == exit_codes.USAGE and complaint in stderr and 'Traceback' not in stderr, form
  code, stdout, stderr = done['torch']
  assert code == 0, stderr[-2000:]
  assert f'hf upload OWNER/NAME {tmp_path / "torch"}' in stdout
  card = (tmp_path / 'torch' / 'README.md').read_text()
  assert 'license: openrail' in card and '6 steps on videos' in card
  assert [path.name for path in tmp_path.iterdir()] == ['torch']


def test_evaluate_reports_sampled_and_real_clips_of_a_corpus(finished_run, tmp_path):
  demo_corpus.write(tmp_path / 'demo', 1, 4, 0, size=32, seed=1)
  ingest.ingest(str(tmp_path / 'demo' / 'webvid'), str(tmp_path / 'corpus'), num_processes=1)
  done = runs.module(
    'i2vgen_jax.evaluate', f'--workdir={finished_run}', f'--output={tmp_path / "out"}',
    '--num_examples=4', '--loss_bins=2', f'--vbench={tmp_path / "vbench"}',
    f'--corpus={tmp_path / "corpus"}',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((tmp_path / 'out' / 'report.json').read_text())
  told = (tmp_path / 'demo' / 'webvid' / 'results_demo_val.csv').read_text()
  assert all(f',{caption}\n' in told for caption in report['captions'].values())
  assert report['num_examples'] == 4 and report['real']['keeps_color']['mean'] == 1.0
  proxy = report['sampled']['fvd_proxy']
  assert proxy['low'] < proxy['mean'] < proxy['high'] and proxy['num'] == 4
  real = report['real']
  assert real['fvd_proxy'] is None and 'fvd' not in real  # Of the real clips to themselves.
  sampled = report['sampled']
  assert 0 <= sampled['follows_caption']['low'] <= sampled['follows_caption']['high'] <= 1
  assert len(sampled['ssim_to_first_frame']) == 4
  bins = report['loss_by_noise_level']
  assert [(row['start'], row['stop']) for row in bins] == [(0, 500), (500, 1000)]
  assert bins[0]['mean'] != bins[1]['mean']
  for name in ('contact_sheet.png', 'spectrum.png', 'index.html'):
    assert (tmp_path / 'out' / name).exists()
  assert len(list((tmp_path / 'out' / 'videos' / 'sampled').glob('*.mp4'))) == 4
  assert len(list((tmp_path / 'vbench').glob('*-0.mp4'))) == 4


@pytest.mark.slow
def test_a_list_goes_on_after_bad_lines_and_ends_with_their_names(finished_run, picture, tmp_path):
  (tmp_path / 'broken.png').write_bytes(picture.read_bytes()[:60])
  listed = tmp_path / 'list.txt'
  listed.write_text('broken.png|||a cat\npicture.png\npicture.png|||a red circle moves left\n')
  done = runs.module(
    'i2vgen_jax.sample', f'--workdir={finished_run}', f'--list={listed}', '--steps=2',
    f'--output={tmp_path / "out"}',
  )  # fmt: skip
  assert done.returncode == 2 and 'Traceback' not in done.stderr
  end = done.stderr[done.stderr.index('error: 2 of 3 lines') :]
  assert 'line 1: image' in end and "line 2: 'picture.png' is not image|||caption" in end
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['0003_picture.mp4']


@pytest.mark.slow
def test_evaluate_takes_the_users_networks(finished_run, clip_folder, tmp_path):  # noqa: F811
  torch.jit.script(torch.nn.Sequential(torch.nn.Conv3d(3, 5, 3), Mean())).save(tmp_path / 'v.pt')
  command = (
    'i2vgen_jax.evaluate', f'--workdir={finished_run}', f'--output={tmp_path / "out"}',
    '--num_examples=4', '--steps=2',
  )  # fmt: skip
  done = runs.module(
    *command, f'--clip={clip_folder[0]}', f'--video_features={tmp_path / "v.pt"}',
    '--frame_features=tests.i2vgen_jax.evaluation.test_measures:mean_color',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads((tmp_path / 'out' / 'report.json').read_text())
  assert {name: len(digest) for name, digest in report['features'].items()} == dict.fromkeys(
    ('fvd', 'fid', 'clip'), 64
  )
  for name in ('fvd', 'fid'):
    assert report['real'][name] is None and report['sampled'][name]['mean'] > 1e-3
  for scores in (report['real'], report['sampled']):
    assert -1 <= scores['clip_text']['low'] <= scores['clip_text']['high'] <= 1
    assert 0 < scores['clip_frames']['mean'] <= 1.000001
  assert report['real']['clip_text'] != report['sampled']['clip_text']
  assert 'fvd' in (tmp_path / 'out' / 'index.html').read_text()

  torch.jit.script(torch.nn.Conv3d(4, 5, 3)).save(tmp_path / 'v.pt')
  for flag, message in (
    (f'--video_features={tmp_path / "v.pt"}', 'takes no videos of shape'),
    (f'--clip={tmp_path}', 'has no config.json'),
    ('--frame_features=nowhere.pt', 'neither a file nor module:function'),
  ):
    done = runs.module(*command, flag)
    assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr
    assert 'videos of' not in done.stderr.split('error: ')[0]  # Before any sampling.


class Mean(torch.nn.Module):
  def forward(self, features):
    return features.mean((2, 3, 4))
