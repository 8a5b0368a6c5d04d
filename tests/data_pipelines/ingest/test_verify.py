"""`verify` is silent on a sound corpus and names every kind of damage."""

import re

import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from tests import corpora


@pytest.fixture
def directory(tmp_path):
  """Four videos in one shard, curated."""
  source = corpora.write_folder(tmp_path / 'in', 4)
  ingest.ingest(str(source), str(tmp_path / 'out'), validation_fraction=0.0, num_processes=1)
  curate.curate(str(tmp_path / 'out'), decide.Rules(min_short_side=16), num_processes=1)
  return tmp_path / 'out'


def edit(path, change):
  pa.parquet.write_table(change(pa.parquet.read_table(path)), path)


def set_column(name, values):
  def change(table):
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))

  return change


def spoil_shot(table):
  """The third video's first shot moves without end."""
  spans = table['spans'].to_pylist()
  spans[2][0]['motion'] = float('inf')
  place = table.schema.get_field_index('spans')
  return table.set_column(place, table.field('spans'), pa.array(spans, table.field('spans').type))


def test_every_kind_of_damage_is_named(directory, capsys):
  command = ['verify', f'--corpus={directory}', '--decode_fraction=1', '--num_processes=1']
  commands.main(command)
  assert '4 examples are what the manifest says, 4 of them decoded' in capsys.readouterr().out
  base = directory / 'sidecar/train-00000.parquet'
  added = directory / 'sidecar/curate/train-00000.parquet'
  records = directory / 'corpus-train.array_record-00000'
  gathered = directory / 'rows/train.parquet'
  keys = [f'{i:03d}.mp4' for i in range(4)]
  swapped, twice = [keys[1], keys[0], *keys[2:]], [keys[0], *keys[:3]]
  damages = [
    (base, lambda p: edit(p, lambda t: t.slice(0, 3)), 'has 3 rows, not 4'),
    (base, lambda p: edit(p, set_column('key', twice)), "key '000.mp4' is there twice"),
    (base, lambda p: edit(p, set_column('num_frames', [16, 16, 17, 16])), 'another num_frames'),
    (base, lambda p: edit(p, set_column('sha256', ['0'] * 4)), 'other bytes than were ingested'),
    (added, lambda p: edit(p, set_column('key', swapped)), 'is not aligned with'),
    (added, lambda p: edit(p, lambda t: t.slice(0, 3)), 'is not aligned with'),
    (
      added,
      lambda p: edit(p, set_column('motion', [0, float('nan'), 0, 0])),
      'motion of .* is nan',
    ),
    (added, lambda p: edit(p, spoil_shot), "motion of shot 0 of '002.mp4' is inf"),
    (added, lambda p: edit(p, lambda t: t.drop_columns(['motion'])), 'other columns'),
    (added, lambda p: p.unlink(), 'is missing'),
    (records, lambda p: p.write_bytes(p.read_bytes()[:-1] + b'x'), 'another checksum'),
    (records, lambda p: p.unlink(), 'is missing'),
    (gathered, lambda p: p.unlink(), 'is not what the sidecars say'),
    (gathered, lambda p: edit(p, set_column('fps', [8, 8, 9, 8])), 'is not what the sidecars say'),
  ]
  for path, damage, message in damages:
    sound = path.read_bytes()
    damage(path)
    found = verify.verify(str(directory), decode_fraction=1.0, num_processes=1)
    assert any(re.search(message, problem) for problem in found.problems), (message, found)
    path.write_bytes(sound)
  base.unlink()
  with corpora.ends_with_2(
    '1 problems. Run stages again where that is said; of other files put back copies'
  ):
    commands.main(command)
  assert f'{base.name} is missing' in capsys.readouterr().out


def test_media_that_cannot_be_decoded_any_more_is_named(directory):
  base = directory / 'sidecar/train-00000.parquet'
  edit(base, set_column('media', ['video', 'image', 'video', 'video']))
  found = verify.verify(str(directory), decode_fraction=1.0, num_processes=1)
  assert found.num_decoded == 4 and len(found.problems) == 1
  assert "'001.mp4' cannot be decoded: image" in found.problems[0]
  [problem] = verify.verify(str(directory), decode_fraction=0.0, num_processes=1).problems
  assert problem == 'rows/train.parquet is not what the sidecars say'


def test_dry_runs_look_and_write_nothing(directory, tmp_path, capsys):
  before = sorted((path, path.stat().st_mtime_ns) for path in directory.rglob('*'))
  corpus = f'--corpus={directory}'
  for command, said in (
    (['verify', corpus, '--dry-run'], '4 examples in 1 shards'),
    (['curate', corpus, '--dry_run'], '1 shards, 1 measured'),
    (['report', corpus, f'--output={tmp_path}/page.html', '--dry_run'], 'would write'),
    (['index', corpus, f'--output={tmp_path}/index', '--where=true or keep', '--dry_run'], 'would'),
    (['demo', f'--output={tmp_path}/demo', '--dry_run'], 'would write'),
  ):
    commands.main(command)
    assert said in capsys.readouterr().out
  assert sorted((path, path.stat().st_mtime_ns) for path in directory.rglob('*')) == before
  assert not {'page.html', 'index', 'demo'} & {path.name for path in tmp_path.iterdir()}
