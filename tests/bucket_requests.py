"""Requests to gs:// that ingest and curate make for each shard, on an emulator of this machine.

  python -m tests.bucket_requests

Tars of a few pictures are read from a bucket and written to one, twice: what more tars take more is
theirs. A request that lists or writes (class A of the price lists) costs ten times one that reads.
"""

import collections
import io
import tarfile
import tempfile

import gcsfs
import numpy as np
import PIL.Image

from data_pipelines.curate import command as curate
from data_pipelines.ingest import command as ingest
from tests import emulators

FEW, MANY = 4, 12


def main():
  counts = collections.Counter()
  call = gcsfs.GCSFileSystem._call

  async def counted(self, method, path, *arguments, **options):
    is_read = method == 'GET' and ('/o/' in path or options.get('info_out'))
    counts['reads' if is_read or method == 'HEAD' else 'lists and writes'] += 1
    return await call(self, method, path, *arguments, **options)

  gcsfs.GCSFileSystem._call = counted
  found = {}
  with emulators.gs_server() as url:
    for num_tars in (FEW, MANY):
      with emulators.gs_bucket(url, 'held') as bucket, tempfile.TemporaryDirectory() as folder:
        for number in range(num_tars):
          write_tar(f'{folder}/{number:05d}.tar', number)
        bucket.put(f'{folder}/', 'held/in/', recursive=True)
        for name, run in (('ingest', run_ingest), ('curate', run_curate)):
          counts.clear()
          run()
          found[name, num_tars] = dict(counts)
  for name in ('ingest', 'curate'):
    few, many = found[name, FEW], found[name, MANY]
    each = {kind: (many[kind] - few.get(kind, 0)) / (MANY - FEW) for kind in many}
    print(f'{name}: {each} for each shard; {few} for {FEW}')


def run_ingest():
  ingest.ingest('gs://held/in', 'gs://held/out', validation_fraction=0.0, num_processes=1)


def run_curate():
  curate.curate('gs://held/out', allow_no_denylist='ours', num_processes=1)


def write_tar(path, number):
  rng = np.random.default_rng(number)
  with tarfile.open(path, 'w') as tar:
    for index in range(3):
      picture = io.BytesIO()
      PIL.Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(picture, 'JPEG')
      for name, data in ((f'{index}.jpg', picture.getvalue()), (f'{index}.txt', b'noise')):
        member = tarfile.TarInfo(f'{number}_{name}')
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


if __name__ == '__main__':
  main()
