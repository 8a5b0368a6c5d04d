"""A corpus grows by what is new in its input; what it has stays to the byte, killed or not."""

import csv
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines.corpus import jobs, lease, reader, schema, writer
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from data_pipelines.media import sandbox
from tests import corpora
from tests.data_pipelines.corpus.test_jobs import contents

GROWN_AT_THEIR_END = ('manifest.json', 'dataset_info.json', 'rows/train.parquet')


def run(source, output, **options):
  options = dict(validation_fraction=0.2, num_processes=1) | options
  return ingest.ingest(str(source), str(output), **options)


@pytest.fixture
def decoded(monkeypatch):
  """Counts the files that are decoded."""
  calls = []
  call = sandbox.Sandbox.__call__

  def counted(self, *arguments, **options):
    calls.append(arguments)
    return call(self, *arguments, **options)

  monkeypatch.setattr(sandbox.Sandbox, '__call__', counted)
  return calls


def keys_of(output, split='train'):
  """By tfds alone, in the order of the corpus."""
  source = tfds.builder_from_directory(str(output)).as_data_source(split=split)
  by_tfds = [source[i]['key'].decode() for i in range(len(source))]
  rows = reader.Corpora(str(output), split)
  assert by_tfds == [rows.key(i) for i in range(len(rows))] and len(rows.columns['fps']) == len(
    rows
  )
  return by_tfds


def all_keys(output):
  return {split: keys_of(output, split) for split in reader.read_manifest(output)['splits']}


def assert_kept(before, output):
  """All of it is there still, but for what grows at its end."""
  after = contents(output)
  changed = {name for name in before if after.get(name) != before[name]}
  assert changed <= {*GROWN_AT_THEIR_END, 'rows/validation.parquet'}


def test_new_files_are_appended_and_the_rest_stays(tmp_path, decoded, caplog):
  source = corpora.write_folder(tmp_path / 'in', 70)
  first = run(source, tmp_path / 'out')
  before, keys = contents(tmp_path / 'out'), all_keys(tmp_path / 'out')
  assert len(decoded) == 70 and [len(v['shards']) for v in first['versions']] == [2]
  corpora.write_folder(source, 75)  # Five more,
  (source / '005.mp4').unlink()  # one less, and one that is another.
  (source / '006.mp4').write_bytes(corpora.video(99))
  decoded.clear()
  grown = run(source, tmp_path / 'out')
  assert len(decoded) == 5
  assert_kept(before, tmp_path / 'out')
  after = all_keys(tmp_path / 'out')
  for split, known in keys.items():
    assert after[split][: len(known)] == known
  assert sorted(sum(after.values(), [])) == [f'{i:03d}.mp4' for i in range(75)]
  assert 'files have other bytes now' in caplog.text and 'are no longer in the input' in caplog.text
  assert not verify.verify(str(tmp_path / 'out'), decode_fraction=1, num_processes=1).problems

  old, new = grown['versions']
  assert [old] == first['versions'] and old['fingerprint'] == first['fingerprint']
  assert new['fingerprint'] == grown['fingerprint'] != first['fingerprint']
  assert (new['num_listed'], new['num_rejected'], new['num_vanished'], new['num_changed']) == (
    6, 1, 1, 1,  # The caption of what vanished is there still.
  )  # fmt: skip
  assert grown['num_listed'] == 75 + grown['num_rejected'] == 76
  # The hash of a key decides alone: as if all had been there at once.
  (source / '005.mp4').write_bytes(b'')
  run(source, tmp_path / 'whole')
  for split, found in all_keys(tmp_path / 'whole').items():
    assert sorted(found) == sorted(set(after[split]) - {'005.mp4'})


def test_nothing_new_is_said_at_once(tmp_path, decoded, caplog, monkeypatch):
  source = corpora.write_folder(tmp_path / 'in', 4)
  (source / 'bad.mp4').write_bytes(b'none')
  (source / 'bad.txt').write_text('damaged')
  run(source, tmp_path / 'out')
  (source / '000.txt').write_text('another caption')
  before = contents(tmp_path / 'out')
  decoded.clear()
  monkeypatch.setattr(jobs, 'claimed', None)  # It is not even asked for.
  with caplog.at_level('INFO'):
    run(source, tmp_path / 'out')
  assert 'is ingested already' in caplog.text and 'listed otherwise' in caplog.text
  assert not decoded and contents(tmp_path / 'out') == before


def test_files_that_were_rejected_are_taken_once_they_are_others(tmp_path, decoded):
  source = corpora.write_folder(tmp_path / 'in', 4)
  for name in ('cut', 'bad'):
    (source / f'{name}.mp4').write_bytes(corpora.video(9)[:-900])
    (source / f'{name}.txt').write_text('caption')
  (source / 'mute.mp4').write_bytes(corpora.video(8))
  first = run(source, tmp_path / 'out')
  assert first['rejected'] == {'open': 2, 'no_caption': 1}
  (source / 'cut.mp4').write_bytes(corpora.video(9))
  (source / 'mute.txt').write_text('caption')
  decoded.clear()
  grown = run(source, tmp_path / 'out')
  assert {'cut.mp4', 'mute.mp4'} <= set(sum(all_keys(tmp_path / 'out').values(), []))
  assert len(decoded) == 2 and grown['rejected'] == {'open': 1}
  assert grown['num_listed'] == first['num_listed'] == 7
  assert grown['versions'][1]['num_tried_again'] == 2
  assert run(source, tmp_path / 'out') == grown and len(decoded) == 2
  # Only damaged files come: they are noted, and not tried again.
  (source / 'worse.mp4').write_bytes(b'')
  (source / 'worse.txt').write_text('caption')
  noted = run(source, tmp_path / 'out')
  assert noted['fingerprint'] == grown['fingerprint'] and noted['rejected'] == {'open': 2}
  assert run(source, tmp_path / 'out') == noted and len(decoded) == 3


def test_what_was_rejected_and_is_listed_no_more_is_forgotten(tmp_path):
  source = corpora.write_folder(tmp_path / 'in', 4)
  (source / 'late.txt').write_text('a caption that came before its video')
  (source / 'bad.mp4').write_bytes(b'none')
  (source / 'bad.txt').write_text('caption')
  first = run(source, tmp_path / 'out')
  assert first['rejected'] == {'missing_file': 1, 'open': 1}
  (source / 'late.mp4').write_bytes(corpora.video(9))
  grown = run(source, tmp_path / 'out')
  assert grown['rejected'] == {'open': 1} and grown['num_listed'] == 6
  assert grown['versions'][1]['num_forgotten'] == 1
  (source / 'late.mp4').unlink()
  (source / 'bad.mp4').unlink()
  (source / 'bad.txt').unlink()
  corpora.write_folder(source, 5)
  again = run(source, tmp_path / 'out')  # What was forgotten is told again.
  assert again['rejected'] == {'missing_file': 1} and again['num_listed'] == 7
  assert run(source, tmp_path / 'out') == again


def test_a_faulty_row_that_moves_counts_once(tmp_path):
  source = write_rows(tmp_path / 'in', range(4))
  file = source / 'results_2M.csv'
  file.write_text(file.read_text() + '"faulty\n')
  first = run(source, tmp_path / 'out')
  assert first['rejected'] == {'bad_row': 1}
  file.write_text(write_rows(source, range(6)) and file.read_text() + '"faulty\n')
  grown = run(source, tmp_path / 'out')
  assert grown['rejected'] == {'bad_row': 1} and grown['num_listed'] == 7


def write_rows(folder, numbers, missing=()):
  """A WebVid folder; videos that are there already stay."""
  (folder / 'videos/p').mkdir(parents=True, exist_ok=True)
  with (folder / 'results_2M.csv').open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['videoid', 'page_dir', 'name'])
    for number in numbers:
      path = folder / f'videos/p/{number:03d}.mp4'
      if number not in missing and not path.exists():
        path.write_bytes(corpora.video(number))
      writer.writerow([f'{number:03d}', 'p', f'caption {number}'])
  return folder


def test_new_rows_of_a_csv_and_late_files_are_appended(tmp_path, decoded):
  source = write_rows(tmp_path / 'in', range(70), missing=(3, 66))
  first = run(source, tmp_path / 'out')
  before = contents(tmp_path / 'out')
  assert first['rejected'] == {'missing_file': 2}
  write_rows(source, range(70), missing=(66,))  # One is there at last; the list is the same.
  decoded.clear()
  late = run(source, tmp_path / 'out')
  assert len(decoded) == 1 and late['rejected'] == {'missing_file': 1}
  assert late['identity'] == first['identity'] and late['fingerprint'] != first['fingerprint']
  write_rows(source, [*range(1, 40), 80, *range(40, 75)])
  grown = run(source, tmp_path / 'out')
  assert len(decoded) == 1 + 7 and grown['rejected'] == {}
  assert_kept(before, tmp_path / 'out')
  found = sum(all_keys(tmp_path / 'out').values(), [])
  assert sorted(found) == [f'p/{i:03d}' for i in [*range(75), 80]]
  assert grown['num_listed'] == 76 and grown['versions'][2]['num_vanished'] == 1
  assert run(source, tmp_path / 'out') == grown and len(decoded) == 8


def write_tar(path, numbers, first=0, cut=0):
  members = []
  for place, number in enumerate(numbers, first):
    members += [(f'{place}.mp4', corpora.video(number)), (f'{place}.txt', b'a caption')]
  corpora.write_tar(path, members)
  if cut:
    path.write_bytes(path.read_bytes()[:-cut])


def test_new_and_grown_tars_are_appended(tmp_path, decoded):
  source = tmp_path / 'in'
  source.mkdir()
  write_tar(source / 'a.tar', range(4))
  write_tar(source / 'b.tar', range(10, 14), cut=10_240)
  first = run(source, tmp_path / 'out')
  before, keys = contents(tmp_path / 'out'), all_keys(tmp_path / 'out')
  num_first = sum(map(len, keys.values()))
  assert first['rejected']['truncated_tar'] and num_first < 8
  decoded.clear()
  write_tar(source / 'a.tar', range(6))  # Two more members,
  write_tar(source / 'b.tar', range(10, 14))  # what was cut off,
  write_tar(source / 'c.tar', range(20, 23))  # and keys that other tars have for other files.
  grown = run(source, tmp_path / 'out')
  assert len(decoded) == 13 - num_first
  assert_kept(before, tmp_path / 'out')
  after = all_keys(tmp_path / 'out')
  assert sorted(sum(after.values(), [])) == sorted('012345' + '0123' + '012')
  for split, known in keys.items():
    assert after[split][: len(known)] == known
  assert grown['rejected'] == {} and grown['num_listed'] == 13
  assert grown['versions'][1]['num_vanished'] == 0
  assert run(source, tmp_path / 'out') == grown and len(decoded) == 13 - num_first
  (source / 'c.tar').unlink()
  write_tar(source / 'a.tar', range(30, 40), first=3)  # Keys 3 to 12.
  shrunk = run(source, tmp_path / 'out')
  assert len(decoded) == 13 - num_first + 7
  assert (
    shrunk['versions'][2]['num_vanished'] == 3 + 3 and shrunk['versions'][2]['num_changed'] == 3
  )


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(validation_fraction=0.3), '--validation_fraction=0.2, and now --validation_fraction is'),
    (dict(takes=['hdr']), '--hdr=refuse, and now --hdr is tonemap'),
    (dict(takes=['interlaced']), 'now --interlaced is deinterlace'),
    (dict(follow_outside=True), 'with no --follow_outside, and now'),
    (dict(layout='vgen_list'), 'read as --layout=vgen_list.*of --layout=folder'),
  ],
)
def test_other_options_are_refused_by_name(tmp_path, options, message):
  source = corpora.write_folder(tmp_path / 'in', 4)
  run(source, tmp_path / 'out')
  corpora.write_folder(source, 6)
  if 'layout' in options:
    (source / 'list.txt').write_text('000.mp4|||caption')
  before = contents(tmp_path / 'out')
  with pytest.raises(ValueError, match=message):
    run(source, tmp_path / 'out', **options)
  assert contents(tmp_path / 'out') == before


def test_another_input_is_refused(tmp_path):
  run(corpora.write_folder(tmp_path / 'in', 4), tmp_path / 'out')
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'x.mp4').write_bytes(corpora.video(5))
  (other / 'x.txt').write_text('caption')
  with pytest.raises(ValueError, match='of other input: none of its 4 examples is in'):
    run(other, tmp_path / 'out')


def test_other_files_of_the_same_names_are_refused(tmp_path):
  source = corpora.write_folder(tmp_path / 'in', 10)
  run(source, tmp_path / 'out')
  corpora.write_folder(source, 11)
  for path in sorted(source.glob('*.mp4'))[:8]:
    path.write_bytes(corpora.video(99) + bytes(99))
  before = contents(tmp_path / 'out')
  with pytest.raises(ValueError, match='of other input, .* 8 of the 10 examples .* --output'):
    run(source, tmp_path / 'out')
  assert contents(tmp_path / 'out') == before


def test_tars_of_another_download_are_refused(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'b').mkdir()
  write_tar(tmp_path / 'a/0.tar', range(10))
  write_tar(tmp_path / 'b/0.tar', [*range(20, 31)])
  manifest = run(tmp_path / 'a', tmp_path / 'out')
  with pytest.raises(ValueError, match=r'of other input, .* of the 10 examples .* --output'):
    run(tmp_path / 'b', tmp_path / 'out')
  assert reader.read_manifest(tmp_path / 'out') == manifest
  assert run(tmp_path / 'a', tmp_path / 'out') == manifest


def make_older(output):
  """Renames a corpus' files as they were when names told the number of shards."""
  manifest = json.loads((output / 'manifest.json').read_text())
  for name in ('versions', 'options'):
    del manifest[name]
  for split in manifest['splits'].values():
    for shard in split['shards']:
      for name in ('records', 'sidecar'):
        stem, dot, suffix = shard[name].partition('.parquet')
        new = f'{stem}-of-{len(split["shards"]):05d}{dot}{suffix}'
        (output / shard[name]).rename(output / new)
        shard[name] = new
  info = (output / 'dataset_info.json').read_text()
  (output / 'dataset_info.json').write_text(info.replace('{SHARD_INDEX}', '{SHARD_X_OF_Y}'))
  (output / 'manifest.json').write_text(json.dumps(manifest))
  return manifest


def test_an_older_corpus_is_read_and_cannot_grow(tmp_path):
  source = corpora.write_folder(tmp_path / 'in', 70)
  run(source, tmp_path / 'out')
  keys = all_keys(tmp_path / 'out')
  manifest = make_older(tmp_path / 'out')
  assert '-of-00002' in manifest['splits']['train']['shards'][0]['records']
  assert all_keys(tmp_path / 'out') == keys
  assert run(source, tmp_path / 'out') == manifest
  corpora.write_folder(source, 72)
  with pytest.raises(ValueError, match='an older version named its shards by their number. Ingest'):
    run(source, tmp_path / 'out')


class Killed(BaseException):
  """Ends a run as a signal does."""


def kill_at(monkeypatch, number, function):
  """Calls the function, which is killed as it is about to put its n-th file in place; returns
  whether it was."""
  replace, left = os.replace, number

  def counted(*arguments, **options):
    nonlocal left
    if lease.NAME not in str(arguments[1]):  # This process lives on, with its lease.
      left -= 1
      if not left:
        raise Killed
    return replace(*arguments, **options)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', counted)
    try:
      function()
    except Killed:
      return True
  return False


def test_killed_at_any_rename_it_is_the_old_corpus_or_the_new_one(tmp_path, monkeypatch):
  source = write_rows(tmp_path / 'in', range(8), missing=(3,))
  run(source, tmp_path / 'old')
  write_rows(source, range(14))
  shutil.copytree(tmp_path / 'old', tmp_path / 'whole')
  run(source, tmp_path / 'whole')
  old, whole = all_keys(tmp_path / 'old'), contents(tmp_path / 'whole')
  states = set()
  for number in range(1, 100):
    output = pathlib.Path(shutil.copytree(tmp_path / 'old', tmp_path / f'killed{number}'))
    was_killed = kill_at(monkeypatch, number, lambda: run(source, output))  # noqa: B023
    for split, keys in old.items():
      rows = reader.Corpora(str(output), split)  # By the manifest; tfds may be ahead of it.
      assert [rows.key(i) for i in range(len(keys))] == keys
      assert len(rows.columns['fps']) == len(rows)
      by_tfds = tfds.builder_from_directory(str(output)).as_data_source(split=split)
      assert [by_tfds[i]['key'].decode() for i in range(len(keys))] == keys
      assert len(list(by_tfds)) in (len(keys), len(all_keys(tmp_path / 'whole')[split]))
    assert not verify.verify(str(output), decode_fraction=0, num_processes=1).problems
    states.add(len(reader.read_manifest(output)['versions']))
    run(source, output)
    assert contents(output) == whole
    if not was_killed:
      break
  assert number > 10 and states == {1, 2}


def test_what_is_killed_and_finds_more_input_starts_anew(tmp_path, monkeypatch):
  source = corpora.write_folder(tmp_path / 'in', 6)
  run(source, tmp_path / 'out')
  shutil.copytree(tmp_path / 'out', tmp_path / 'whole')
  corpora.write_folder(source, 8)
  (source / '007.mp4').write_bytes(b'cut off')
  with monkeypatch.context() as patch, pytest.raises(TypeError):
    patch.setattr(writer, 'write_tfds_metadata', None)
    run(source, tmp_path / 'out')
  placed = contents(tmp_path / 'out')
  assert {'corpus-train.array_record-00001', 'rejected/00001.jsonl'} <= set(placed)
  corpora.write_folder(source, 10)
  run(source, tmp_path / 'out')
  run(source, tmp_path / 'whole')
  assert contents(tmp_path / 'out') == contents(tmp_path / 'whole')


def test_a_second_run_on_a_corpus_that_grows_is_refused(tmp_path):
  source = corpora.write_folder(tmp_path / 'in', 4)
  run(source, tmp_path / 'out')
  corpora.write_folder(source, 5)
  with jobs.claimed(epath.Path(tmp_path / 'out/_parts'), 'of another run'):
    with pytest.raises(ValueError, match='_parts is in use'):
      run(source, tmp_path / 'out')
  assert len(run(source, tmp_path / 'out')['versions']) == 2


def test_a_corpus_grows_in_a_bucket_to_the_same_bytes(tmp_path, gs_bucket):
  source = write_rows(tmp_path / 'in', range(6), missing=(3,))
  for _ in range(2):
    gs_bucket.put(f'{source}/', 'held/grow/in/', recursive=True)
    run('gs://held/grow/in', 'gs://held/grow/out')
    manifest = run(source, tmp_path / 'out')
    write_rows(source, range(9))
  assert len(manifest['versions']) == 2
  gs_bucket.get('held/grow/out', str(tmp_path / 'got'), recursive=True)
  got, expected = contents(tmp_path / 'got'), contents(tmp_path / 'out')
  assert got.keys() == expected.keys()
  differing = {'dataset_info.json', 'manifest.json', 'rejected/00000.jsonl'}  # By their paths.
  for name in got.keys() - differing:
    assert got[name] == expected[name], name
  assert json.loads(got['manifest.json']) == json.loads(expected['manifest.json'])
  rows = reader.Corpora('gs://held/grow/out', 'train')
  np.testing.assert_array_equal(
    rows.columns['fps'], reader.Corpora(str(tmp_path / 'out'), 'train').columns['fps']
  )


def test_a_corpus_that_may_only_be_read_is_ingested_already(tmp_path, monkeypatch, caplog):
  source = corpora.write_folder(tmp_path / 'in', 4)
  run(source, tmp_path / 'out')
  manifest = make_older(tmp_path / 'out')
  for split in manifest['splits'].values():  # Then it would be given what it lacks.
    (tmp_path / 'out' / split.pop('rows')).unlink()
  (tmp_path / 'out/manifest.json').write_text(json.dumps(manifest))
  before = contents(tmp_path / 'out')
  (tmp_path / 'out/_parts').write_text('')  # No folder can be made there, whoever runs this.
  with caplog.at_level('INFO'):
    assert run(source, tmp_path / 'out') == manifest
  assert 'is ingested already' in caplog.text and 'is not writable' in caplog.text
  (tmp_path / 'out/_parts').unlink()
  assert contents(tmp_path / 'out') == before
  with jobs.claimed(epath.Path(tmp_path / 'out/_parts'), 'of another run'):
    with pytest.raises(ValueError, match='_parts is in use'):
      run(source, tmp_path / 'out')
  assert all('rows' in split for split in run(source, tmp_path / 'out')['splits'].values())


def test_the_command_says_what_it_did(tmp_path, capsys):
  source = corpora.write_folder(tmp_path / 'in', 4)
  command = ['ingest', f'--input={source}', f'--output={tmp_path}/out', '--num_processes=1']
  commands.main(command)
  corpora.write_folder(source, 6)
  commands.main([*command, '--dry_run'])
  assert 'Folder: 2 new examples in 1 shards, 0 of them done' in capsys.readouterr().out
  commands.main(command)
  out = capsys.readouterr().out
  assert 'listed 6 = read 6 + rejected 0' in out and 'version 2: tried 2' in out
  (source / '000.mp4').unlink()
  with corpora.ends_with_2('--validation_fraction=0.01, and now --validation_fraction is 0.5'):
    commands.main([*command, '--validation_fraction=0.5'])


def test_names_of_shards_have_room(tmp_path, monkeypatch):
  monkeypatch.setattr(schema, 'MAX_SHARDS', 2)
  source = corpora.write_folder(tmp_path / 'in', 70)
  run(source, tmp_path / 'out')
  corpora.write_folder(source, 71)
  with pytest.raises(ValueError, match='more than 2 shards: ingest what is new into another'):
    run(source, tmp_path / 'out')
  with pytest.raises(ValueError, match='makes 3 shards, and a corpus has 2 at most'):
    run(corpora.write_folder(source, 140), tmp_path / 'other')
