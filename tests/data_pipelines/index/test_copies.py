"""Over all corpora of an index, no copy of held-out media is trained on, and no copy twice."""

import numpy as np
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import reader
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from tests import media


def write(path, seed, scale=1):
  """A camera's pan over a scene, by its seed; a scale of 2 leaves every second pixel."""
  scene = media.scene(seed, 140, 220)[::scale, ::scale]
  frames = np.stack([scene[:, 2 * i // scale : (2 * i + 128) // scale] for i in range(30)])
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(demo_corpus.encode_video(frames, 24))
  path.with_suffix('.txt').write_text(path.stem)


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
  """a: three videos; b: smaller copies of two of them, of which one is held out, and another."""
  root = tmp_path_factory.mktemp('copies')
  for seed, name in enumerate(('held_out', 'twice', 'once')):
    write(root / 'in_a' / f'{name}.mp4', seed)
  write(root / 'in_b/val/v.mp4', 0, scale=2)
  write(root / 'in_b/train/small.mp4', 1, scale=2)
  write(root / 'in_b/train/other.mp4', 7)
  found = {}
  for name in ('a', 'b'):
    found[name] = str(root / name)
    fraction = dict(validation_fraction=0.0) if name == 'a' else {}
    ingest.ingest(str(root / f'in_{name}'), found[name], num_processes=1, **fraction)
    curate.curate(found[name], decide.Rules(min_short_side=16, min_duration=0.1), num_processes=1)
  return found


def keys(corpora, folder):
  opened = reader.Corpora(corpora, 'train')
  return {opened.key(row) for row in np.load(folder / 'order.u32.npy')}


def test_what_one_corpus_holds_out_the_others_do_not_train_on(corpora, tmp_path, capsys):
  flags = [f'--corpus={name}={path}' for name, path in corpora.items()]
  commands.main(['index', *flags, f'--output={tmp_path}'])
  assert keys(corpora, tmp_path) == {'twice.mp4', 'once.mp4', 'train/other.mp4'}
  said = capsys.readouterr().out
  assert '4 no copy of what a corpus holds out  -1' in said
  assert '3 no copy of another corpus  -1' in said
  commands.main(['index', *flags, f'--output={tmp_path}', '--keep_copies'])
  assert keys(corpora, tmp_path) == {'twice.mp4', 'once.mp4', 'train/other.mp4', 'train/small.mp4'}


def test_the_best_copy_of_those_that_conditions_leave_is_kept(corpora, tmp_path):
  index.index(corpora, str(tmp_path), where=["key != 'twice.mp4'"])
  assert keys(corpora, tmp_path) == {'once.mp4', 'train/other.mp4', 'train/small.mp4'}
