"""Tars give each example its own files, and name every member that belongs to none."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile

import pyarrow as pa
import pyarrow.parquet
import pytest
from webdataset import tariterators

from data_pipelines import __main__ as commands
from data_pipelines import sources
from data_pipelines.sources import raw, tars
from tests import corpora
from tests.corpora import read_all as read


def example(key, caption, *suffixes):
  """Members of an example: media and texts that name their key."""
  data = dict(txt=caption.encode(), json=json.dumps(dict(caption=caption)).encode())
  return [
    (f'{key}.{suffix}', data.get(suffix.lower(), f'{key} media'.encode())) for suffix in suffixes
  ]


def test_keys_are_those_of_webdataset():
  rng = random.Random(0)
  names = [''.join(rng.choices('ab./', k=rng.randrange(1, 9))) for _ in range(3000)]
  for name in names:
    found = tars.KEY.fullmatch(name)
    expected = tariterators.base_plus_ext(name)
    hidden = name.rpartition('/')[2].startswith('.')  # webdataset takes their folder as a key.
    assert hidden or (found.groups() if found else (None, None)) == expected, name
    assert not hidden or found is None


def test_examples_of_two_folders_keep_their_own_captions(tmp_path):
  members = example('a/1', 'a cat', 'jpg', 'txt', 'json') + example('b/1', 'a dog', 'jpg', 'txt')
  members += example('b.v2/1', 'three', 'JPG', 'TXT') + example('c', 'four', 'png', 'json')
  corpora.write_tar(tmp_path / '0.tar', members + example('d', 'five', 'jpg'))
  taken, rejected = read(tmp_path)
  assert taken == {'a/1': 'a cat', 'b/1': 'a dog', 'b.v2/1': 'three', 'c': 'four'}
  assert rejected == {'d': 'missing_txt'}
  source = sources.open_source(tmp_path)
  found = {e.key: e for e in source.examples(source.shards()[0]) if isinstance(e, raw.RawExample)}
  assert all(e.data == f'{key} media'.encode() for key, e in found.items())


def test_a_caption_whose_name_begins_as_a_documents_is_no_document(tmp_path):
  members = example('license_plate_1', 'a plate', 'jpg', 'txt', 'json')
  corpora.write_tar(tmp_path / '0.tar', [*members, ('a/NOTICE.txt', b'x'), ('LICENSE', b'x')])
  assert read(tmp_path) == ({'license_plate_1': 'a plate'}, {})


def test_members_that_lie_apart_belong_together(tmp_path):
  members = [m for k in 'abc' for m in example(k, f'caption {k}', 'jpg', 'txt', 'json')]
  members.sort(key=lambda member: member[0].rpartition('.')[2])
  corpora.write_tar(tmp_path / '0.tar', members)
  expected = {key: f'caption {key}' for key in 'abc'}
  assert read(tmp_path) == (expected, {})
  data = (tmp_path / '0.tar').read_bytes()
  (tmp_path / '0.tar').unlink()
  (tmp_path / '0.tgz').write_bytes(gzip.compress(data))
  assert read(tmp_path) == ({}, dict.fromkeys(expected, 'not_adjacent'))


@pytest.mark.parametrize(
  ('suffix', 'compress'),
  [('.tar.gz', gzip.compress), ('.tgz', gzip.compress), ('.tar.bz2', bz2.compress),
   ('.tar.xz', lzma.compress), ('.tar', gzip.compress), ('.TAR', bytes), ('.TGZ', gzip.compress)],
)  # fmt: skip
def test_compressed_tars_are_read(tmp_path, suffix, compress):
  corpora.write_tar(tmp_path / 'x', [m for k in 'ab' for m in example(k, k, 'jpg', 'txt')])
  (tmp_path / f'0{suffix}').write_bytes(compress((tmp_path / 'x').read_bytes()))
  rows = [dict(key='c', status='failed', error_message='HTTP 404')]
  pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / '0.parquet')
  assert read(tmp_path) == ({'a': 'a', 'b': 'b'}, {'c': 'failed_download'})
  data = compress((tmp_path / 'x').read_bytes()[:3600])  # Within the last member.
  (tmp_path / f'0{suffix}').write_bytes(data)
  taken, rejected = read(tmp_path)
  assert set(taken) <= {'a', 'b'} and rejected[f'0{suffix}'] == 'truncated_tar'


def test_members_that_cannot_be_told_apart_are_rejected_by_name(tmp_path):
  members = example('1', 'one', 'jpg', 'txt') + example('1', 'again', 'JPG')
  members += example('v1.5_2', 'two', 'jpg', 'txt') + example('v1.5_3', 'three', 'jpg', 'txt')
  members += example('4', 'four', 'jpg', 'mp4', 'txt') + example('5', 'five', 'jpg', 'txt', 'txt')
  members += [('noext', b''), ('.hidden.jpg', b''), ('README.md', b''), ('__index__', b'')]
  members += [('._1.jpg', b''), ('__MACOSX/._1.txt', b''), *example('6', 'six', 'psd', 'txt')]
  corpora.write_tar(tmp_path / '0.tar', members)
  taken, rejected = read(tmp_path)
  assert taken == {'4': 'four'}
  assert rejected == {
    '1.jpg': 'duplicate_member', '1.JPG': 'duplicate_member', 'v1.5_2.jpg': 'dotted_name',
    'v1.5_3.jpg': 'dotted_name', '4.jpg': 'second_media', '5': 'duplicate_member',
    'noext': 'no_key', '.hidden.jpg': 'no_key', '6': 'unknown_format',
  }  # fmt: skip


def add(tar, name, data=b'media', **fields):
  member = tarfile.TarInfo(name)
  member.size = len(data)
  for field, value in fields.items():
    setattr(member, field, value)
  tar.addfile(member, io.BytesIO(data))


def test_what_no_member_should_be_is_rejected_and_the_others_are_read(tmp_path):
  with tarfile.open(tmp_path / '0.tar', 'w') as tar:
    for name in ('0.jpg', '../up.jpg', '/root.jpg', 'a/../b.jpg', '\x1b[31m.jpg', 'a\u202eb.jpg'):
      add(tar, name)
      add(tar, f'{name[:-4]}.txt', b'caption')
    add(tar, 'link.jpg', b'', type=tarfile.SYMTYPE, linkname='/etc/passwd')
    add(tar, 'device.jpg', b'', type=tarfile.CHRTYPE)
    sparse = {'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.name': '1.jpg'}
    sparse['GNU.sparse.realsize'] = str(6 << 30)
    add(tar, 'sparse/1.jpg', b'1\n6442450944\n0\n'.ljust(512, b'\0'), pax_headers=sparse)
    add(tar, '2.jpg')
    add(tar, '2.txt', b'fine')
  taken, rejected = read(tmp_path)
  assert taken == {'0': 'caption', '2': 'fine'}
  unsafe = ('../up', '/root', 'a/../b')
  assert rejected == {f'{n}.{s}': 'unsafe_name' for n in unsafe for s in ('jpg', 'txt')} | {
    'link.jpg': 'not_a_file', 'device.jpg': 'not_a_file', '1.jpg': 'not_a_file',
    '\\x1b[31m': 'bad_name', 'a\\u202eb': 'bad_name',
  }  # fmt: skip


@pytest.mark.parametrize(
  'bad',
  [
    b'[' * 200_000, b'{"a": ' * 33 + b'1' + b'}' * 33, b' ' * (2 << 20), b'', b'[]', b'{', b'\xff',
    b'{"url": ["x"]}', b'{"url": ' + b'9' * 5000 + b'}', b'{"url": "\\ud800"}',
    b'{"nsfw": {"x": 1}}',
  ],
)  # fmt: skip
def test_json_that_cannot_be_trusted_rejects_its_example(tmp_path, bad):
  """It may say what forbids the example."""
  members = [m for k in '13' for m in example(k, k, 'jpg', 'txt', 'json')]
  members += [*example('2', 'two', 'jpg', 'txt'), ('2.json', bad)]
  corpora.write_tar(tmp_path / '0.tar', members)
  assert read(tmp_path) == ({'1': '1', '3': '3'}, {'2': 'bad_json'})


def test_numbers_that_are_not_finite_are_not_known(tmp_path):
  members = [*example('1', 'one', 'jpg', 'txt'), ('1.json', b'{"similarity": 1e999, "md5": "AB"}')]
  corpora.write_tar(tmp_path / '0.tar', members)
  source = sources.open_source(tmp_path)
  (found,) = source.examples(source.shards()[0])
  assert found.origin == {'similarity': None, 'source_md5': 'AB'}


def test_bounds_of_members_hold_before_they_are_read(tmp_path, monkeypatch):
  monkeypatch.setattr(raw, 'MAX_FILE_BYTES', 1000)
  members = example('1', 'one', 'jpg', 'txt') + [('2.jpg', bytes(1001)), ('2.txt', b'two')]
  members += [('3.jpg', b'media'), ('3.txt', b'x' * 300_000)]
  corpora.write_tar(tmp_path / '0.tar', members)
  assert read(tmp_path) == ({'1': 'one'}, {'2': 'too_large', '3': 'long_caption'})


@pytest.mark.parametrize('compress', [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize('seed', range(10))
def test_a_tar_with_damaged_bytes_gives_or_names_its_examples(tmp_path, seed, compress):
  members = [m for k in range(8) for m in example(f'{k}', f'caption {k}', 'jpg', 'txt', 'json')]
  corpora.write_tar(tmp_path / '0.tar', members)
  data = bytearray(compress((tmp_path / '0.tar').read_bytes()))
  rng = random.Random(seed)
  for _ in range(20 if compress is bytes else 2):
    data[rng.randrange(min(len(data), len(members) * 1024))] = rng.randrange(256)
  (tmp_path / '0.tar').write_bytes(data)
  source = sources.open_source(tmp_path)
  (shard,) = source.shards()
  assert len(list(source.examples(shard))) == source.num_listed(shard) > 0


def test_tars_may_share_keys_but_not_files(tmp_path, capsys):
  (tmp_path / 'in').mkdir()
  members = [(f'{key}.txt', b'caption') for key in '12']
  for tar in range(2):
    media = [(f'{key}.mp4', corpora.video(2 * tar + int(key))) for key in '12']
    corpora.write_tar(tmp_path / f'in/{tar}.tar', [*members, *media])
  command = ['ingest', f'--input={tmp_path}/in', '--validation_fraction=0', '--num_processes=1']
  commands.main([*command, f'--output={tmp_path}/two'])
  commands.main(['verify', f'--corpus={tmp_path}/two', '--num_processes=1'])
  (tmp_path / 'in/1.tar').write_bytes((tmp_path / 'in/0.tar').read_bytes())
  commands.main([*command, f'--output={tmp_path}/same'])
  with corpora.ends_with_2('2 problems'):
    commands.main(['verify', f'--corpus={tmp_path}/same', '--num_processes=1'])
  assert "key '1' is there twice" in capsys.readouterr().out


def test_a_row_that_may_mean_two_examples_is_of_both(tmp_path):
  members = example('a/1', 'a cat', 'jpg', 'txt') + example('b/1', 'a dog', 'jpg', 'txt')
  corpora.write_tar(tmp_path / '0.tar', members)
  rows = [dict(key=key, status='success', url=f'https://e.com/{key}') for key in ('1', '2')]
  table = tmp_path / '0.parquet'
  pa.parquet.write_table(pa.Table.from_pylist(rows), table)
  source = sources.open_source(tmp_path)
  taken, lost = [], []
  for item in source.examples(source.shards()[0]):
    (lost if isinstance(item, raw.Rejected) else taken).append(item)
  assert [one.origin for one in taken] == 2 * [dict(url='https://e.com/1')]
  assert [(one.key, one.reason) for one in lost] == [('2', 'missing_media')]
  pa.parquet.write_table(pa.Table.from_pylist([*rows, dict(rows[0], key='a/1')]), table)
  assert read(tmp_path) == ({'a/1': 'a cat', 'b/1': 'a dog'}, {'2': 'missing_media'})
  corpora.write_tar(tmp_path / '0.tar', members[:2])
  assert read(tmp_path) == ({'a/1': 'a cat'}, dict.fromkeys('12', 'missing_media'))


def test_a_table_that_is_damaged_rejects_its_tar(tmp_path):
  corpora.write_tar(tmp_path / '0.tar', example('1', 'one', 'jpg', 'txt'))
  (tmp_path / '0.parquet').write_bytes(b'PAR1 damaged')
  assert read(tmp_path) == ({}, {'0.tar': 'damaged_table'})


TAGS = {
  'plain': dict(x_robots_tag='noai'),
  'of_an_agent': {'X-Robots-Tag': 'otherbot: noindex, NoImageAI'},
  'within': dict(headers={'content-type': 'image/jpeg', 'x-robots-tag': 'noai, noimageai'}),
  'json': dict(headers=json.dumps({'X-Robots-Tag': ['noai']})),
  'lines': dict(http_headers='Server: x\r\nX-Robots-Tag: noimageai\r\n'),
  'other': dict(headers='Server: noai', robots='noindex', note='noai', x_robots_tag=None),
}


def test_what_its_site_forbids_to_use_for_ai_is_left_out_unless_it_is_asked_for(tmp_path, capsys):
  """In a json or in the table; where img2dataset left it out itself, its message is."""
  source = tmp_path / 'in'
  source.mkdir()
  members = []
  for number, (key, tag) in enumerate(TAGS.items()):
    members += [(f'{key}.mp4', corpora.video(number)), (f'{key}.txt', b'a caption')]
    members += [(f'{key}.json', json.dumps(tag).encode())]
  members += [('in_table.mp4', corpora.video(9)), ('in_table.txt', b'a caption')]
  corpora.write_tar(source / '0.tar', members)
  message = 'Use of image disallowed by X-Robots-Tag directive'
  rows = [
    dict(key='in_table', status='success', error_message=None, x_robots_tag='noai'),
    dict(key='left', status='failed_to_download', error_message=message, x_robots_tag=None),
    dict(key='gone', status='failed_to_download', error_message='HTTP 404', x_robots_tag=None),
  ]
  pa.parquet.write_table(pa.Table.from_pylist(rows), source / '0.parquet')
  taken, rejected = read(source)
  refused = dict.fromkeys([*TAGS, 'in_table', 'left'], 'opted_out')
  del refused['other']
  assert set(taken) == {'other'} and rejected == refused | dict(gone='failed_download')
  command = ['ingest', f'--input={source}', '--num_processes=1', '--validation_fraction=0']
  commands.main([*command, f'--output={tmp_path}/some'])
  assert "rejected {'opted_out': 7, 'failed_download': 1}" in capsys.readouterr().out
  commands.main([*command, f'--output={tmp_path}/all', '--opted_out=take'])
  assert 'train: 7 videos' in capsys.readouterr().out
  with corpora.ends_with_2('--opted_out=refuse, and now --opted_out is take'):
    commands.main([*command, f'--output={tmp_path}/some', '--opted_out=take'])
