"""Lists of examples name what they mean, however it is written; what they cannot is an error."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import pathlib

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines.curate import denylist
from data_pipelines.ingest import command as ingest
from tests import corpora

ROW = dict(
  url='https://example.com/a%20b/0.jpg?x=1', link_hash='-1234567890123456780', sha256='ab' * 32,
  md5='cd' * 16, source_sha256='ef' * 32, source_md5='01' * 16,
)  # fmt: skip
OTHER = dict(url='https://example.com/1.jpg', link_hash='5', sha256='00' * 32, md5='00' * 16)


def names(path, data, row=ROW):
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  lists = denylist.Lists([path])
  assert not lists.names(OTHER)
  return lists.names(row)


FORMS = {
  'url': 'HTTP://EXAMPLE.com:80/a b/0.jpg?x=1#top',
  'hash': str(-1234567890123456780 % 2**64),
  'sha256': 'AB' * 32,
  'md5': 'CD' * 16,
}


@pytest.mark.parametrize('kind', FORMS)
@pytest.mark.parametrize('form', ['txt', 'csv', 'tsv', 'jsonl', 'parquet', 'none'])
def test_each_kind_of_name_denies_in_each_kind_of_file(tmp_path, kind, form):
  value, column = FORMS[kind], kind.upper()
  path = tmp_path / f'list.{form}'
  if form == 'parquet':
    cells = [int(ROW['link_hash']) if kind == 'hash' else value]
    pa.parquet.write_table(pa.table({'ID': [7], column: cells}), path)
    data = path.read_bytes()
  elif form == 'jsonl':
    data = json.dumps({'id': 7, column: value}) + '\n'
  elif form in ('csv', 'tsv'):
    comma = ',' if form == 'csv' else '\t'
    data = f'id{comma}{column}\n7{comma} "{value}" \n'.replace(' "', '"').replace('" ', '"')
  else:
    data = f'# A comment\n\n {value}\r\n'
  assert names(path, data)
  row = dict.fromkeys(ROW) | {field: ROW[field] for field in denylist.FIELDS[kind][-1:]}
  assert names(path, data, row)


@pytest.mark.parametrize('kind', ['sha256', 'md5', 'url'])
@pytest.mark.parametrize('as_text', [False, True])
def test_bytes_in_parquet_are_digests_or_text(tmp_path, kind, as_text):
  value = FORMS[kind].encode()
  if kind != 'url' and not as_text:
    value = bytes.fromhex(FORMS[kind])
  pa.parquet.write_table(pa.table({kind: pa.array([value], pa.binary())}), tmp_path / 'a.parquet')
  assert names(tmp_path / 'list.parquet', (tmp_path / 'a.parquet').read_bytes())


def test_columns_that_differ_in_case_alone_all_deny(tmp_path):
  assert names(tmp_path / 'a.csv', f'URL,url\n{ROW["url"]},https://e.com/\n')
  assert names(tmp_path / 'b.csv', f'URL,url\nhttps://e.com/,{ROW["url"]}\n')


def test_digests_of_the_download_deny_too(tmp_path):
  assert names(tmp_path / 'a.csv', 'md5,sha256\n' + '01' * 16 + ',\n')
  assert names(tmp_path / 'b.csv', 'md5,sha256\n,' + 'EF' * 32 + '\n')
  assert not names(tmp_path / 'c.csv', 'md5,sha256\n,' + '11' * 32 + '\n')


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-32'])
@pytest.mark.parametrize('name', ['a.txt', 'a.csv'])
def test_marks_and_encodings_lose_no_first_entry(tmp_path, name, encoding):
  data = 'md5\n' * name.endswith('csv') + ROW['md5'] + '\n'
  assert names(tmp_path / name, data.encode(encoding))


def zstd(data):
  sink = pa.BufferOutputStream()
  with pa.CompressedOutputStream(sink, 'zstd') as stream:
    stream.write(data)
  return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
  ('suffix', 'compress'),
  [('gz', gzip.compress), ('bz2', bz2.compress), ('xz', lzma.compress), ('zst', zstd)],
)
def test_compressed_lists_are_read(tmp_path, suffix, compress):
  data = b'\xef\xbb\xbfmd5\r\n' + b'11' * 16 + b'\r\n' * 100_000 + ROW['md5'].encode()
  assert names(tmp_path / f'a.csv.{suffix}', compress(data))
  assert names(tmp_path / 'a.txt', compress(data[8:]))  # Known by its first bytes.


@pytest.mark.parametrize(
  ('name', 'data', 'message'),
  [
    ('a.csv', 'md5\n' + '11' * 16 + '\nabc\n', "row 3 has the md5 'abc'"),
    ('a.csv', 'url,md5\nhttps://e.com/,\n"https://e.com/\n', 'row 3: .*quote'),
    ('a.csv', 'url,note\nhttps://e.com/,a,b\n', 'row 2: 3 fields, not 2'),
    ('a.csv', 'url,note\n,a\n', 'row 2 names nothing'),
    ('a.csv', 'link,note\nhttps://e.com/,a\n', r"columns \['link', 'note'\] and needs one of"),
    ('a.csv', b'url\nhttps://e.com/\xe9\n', 'row 2 has the url'),
    ('a.csv', 'md5,md5\na,b\n', 'columns of one name'),
    ('a.txt', 'https://e.com/\nexample.com/a\n', "line 2 is 'example.com/a', no link"),
    ('a.txt', '11' * 20 + '\n', 'line 1 is .*, no link, sha256, md5 or hash'),
    ('a.txt', 'url\nhttps://e.com/\n', "line 1 is 'url', no .*a table should end in .csv"),
    ('a.txt', 'https://e.com/ https://e.com/2\n', "line 1 is 'https://e.com/ https"),
    ('a.txt', 'https://e.com/\u2028https://e.com/2\n', 'line 1 is '),
    ('a.txt', 'https://e.com/\t0.98\n', 'line 1 is '),
    ('a.txt', '# nothing\n\n', 'is empty'),
    ('a.csv', f'hash\n{2**64}\n', 'row 2 has the hash'),
    ('a.csv', f'hash\n{-(2**63) - 1}\n', 'row 2 has the hash'),
    ('a.csv', 'url\n', 'is empty'),
    ('a.jsonl', '{"url": "https://e.com/"}\n{"url"\n', 'row 2: no JSON'),
    ('a.jsonl', '{"link": "https://e.com/"}\n', "columns .'link'. and needs one of"),
    ('a.csv.gz', gzip.compress(b'url\nhttps://e.com/\n', mtime=0)[:-9], 'cannot be used'),
    ('a.parquet', b'PAR1 damaged', 'cannot be used'),
  ],
)
def test_what_a_list_does_not_say_clearly_is_an_error_with_its_line(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
  with pytest.raises(ValueError, match=f'denylist .*{name} .*{message}'):
    denylist.Lists([tmp_path / name])


def test_hashes_that_lost_digits_as_floats_are_an_error(tmp_path):
  pa.parquet.write_table(pa.table({'hash': [-1.2345678901234568e18]}), tmp_path / 'a.parquet')
  with pytest.raises(ValueError, match='row 1 has the hash'):
    denylist.Lists([tmp_path / 'a.parquet'])


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  """Six pictures with links, as img2dataset has them, ingested; and their digests."""
  root = tmp_path_factory.mktemp('images')
  rng, groups, digests = np.random.default_rng(0), [], []
  for index in range(6):
    buffer = io.BytesIO()
    pixels = rng.integers(0, 255, (6, 8, 3), np.uint8)
    PIL.Image.fromarray(pixels).resize((320, 240), 0).save(buffer, 'jpeg')
    digests.append(hashlib.md5(buffer.getvalue()).hexdigest())
    known = dict(url=f'https://example.com/{index}.jpg', hash=index - 3)
    files = dict(jpg=buffer.getvalue(), txt=b'c', json=json.dumps(known).encode())
    groups += [(f'{index}.{suffix}', data) for suffix, data in files.items()]
  (root / 'in').mkdir()
  corpora.write_tar(root / 'in/0.tar', groups)
  ingest.ingest(str(root / 'in'), str(root / 'out'), validation_fraction=0.0, num_processes=1)
  return root / 'out', digests


def curated(directory, *flags):
  """Keys of what is dropped, by rule."""
  command = ['curate', f'--corpus={directory}', '--num_processes=1', '--min_short_side=16']
  commands.main([*command, *flags])
  dropped = {}
  for file in sorted(pathlib.Path(directory, 'sidecar/curate').glob('*.parquet')):
    for row in pa.parquet.read_table(file).to_pylist():
      dropped.update({row['key']: row['reject']} if row['reject'] else {})
  return dropped


def test_a_list_says_what_it_names_and_loudly_if_nothing(images, tmp_path, capsys):
  directory, digests = images
  (tmp_path / 'md5.csv').write_text(f'md5\n{digests[0].upper()}\n{digests[4]}\n')
  (tmp_path / 'none.txt').write_text('https://example.org/0.jpg\n5000\n')
  flags = [f'--denylist={tmp_path}/{name}' for name in ('md5.csv', 'none.txt')]
  assert curated(directory, *flags) == {'0': ['denylist'], '4': ['denylist']}
  out = capsys.readouterr().out
  assert 'md5.csv: 2 md5; names 2 of 6 examples' in out
  assert 'none.txt: 1 url, 1 hash; NAMES NONE OF THE 6 EXAMPLES' in out
  with corpora.ends_with_2('denylist .*none.txt names none of the examples'):
    curated(directory, *flags, '--denylist_must_match')


def test_an_allowlist_keeps_only_what_it_names(images, tmp_path):
  directory, _ = images
  urls = [f'http://EXAMPLE.com/{index}.jpg' for index in (1, 2, 5)]
  pa.parquet.write_table(pa.table({'URL': urls}), tmp_path / 'stays.parquet')
  (tmp_path / 'gone.txt').write_text('-1\n')  # The hash of picture 2.
  flags = [f'--allowlist={tmp_path}/stays.parquet']
  dropped = {key: ['allowlist'] for key in '034'}
  assert curated(directory, *flags) == dropped
  flags.append(f'--denylist={tmp_path}/gone.txt')
  assert curated(directory, *flags) == dropped | {'2': ['denylist']}
  (tmp_path / 'other.txt').write_text('https://example.org/\n')
  with corpora.ends_with_2('allowlist .*other.txt names none of the examples'):
    curated(directory, f'--allowlist={tmp_path}/other.txt')


def test_md5_denies_in_corpora_that_were_ingested_without_it(images, tmp_path):
  directory, digests = images
  for file in sorted(pathlib.Path(directory, 'sidecar').glob('*.parquet')):
    table = pa.parquet.read_table(file)
    pa.parquet.write_table(table.drop_columns(['md5', 'source_md5']), file)
  (tmp_path / 'md5.txt').write_text(digests[3])
  assert curated(directory, f'--denylist={tmp_path}/md5.txt') == {'3': ['denylist']}
