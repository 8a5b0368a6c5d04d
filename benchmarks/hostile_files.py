"""Ingests files that attack a reader: nothing else may be opened, listened to, run or written.

  python -m benchmarks.hostile_files [--count=1000] [--seed=0]

Playlists, session descriptions, documents and programs of drawing languages, under names of videos
and pictures, refer to a decoy, a sound video, and to ports of this machine. Some are damaged.
Tars have names that lead out, links, and members larger than they are. While `ingest` reads them
the decoy is watched (by inotify), the ports are listened to, the sockets of all its processes are
listed, and programs that libraries might start are replaced by one that leaves a mark.
"""

import argparse
import ctypes
import io
import itertools
import os
import pathlib
import random
import re
import select
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator

from benchmarks import fuzz_media
from data_pipelines.media import sandbox

LOOPBACK = '127.0.0.1'
POLL_SECS = 0.02
IN_ACCESS, IN_OPEN = 0x1, 0x20
PROGRAMS = ('gs', 'gswin64c', 'convert', 'magick', 'inkscape', 'rsvg-convert', 'ffmpeg', 'sh')
# {file}: the decoy; {name}: relative to the hostile file; {port}: of this machine.
TEXTS = {
  'concat': "ffconcat version 1.0\nfile '{file}'\nduration 1\n",
  'concat_relative': "ffconcat version 1.0\nfile '{name}'\n",
  'concat_http': "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
  'concat_options': "ffconcat version 1.0\nfile '{file}'\noption safe 0\n",
  'hls': '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{file}\n#EXT-X-ENDLIST\n',
  'hls_http': '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n',
  'hls_key': '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="file:{file}"\n#EXTINF:1,\n{name}\n',
  'hls_concat': '#EXTM3U\n#EXTINF:1,\nconcat:{file}|{file}\n#EXT-X-ENDLIST\n',
  'hls_subfile': '#EXTM3U\n#EXTINF:1,\nsubfile,,start,0,end,99,,:{file}\n#EXT-X-ENDLIST\n',
  'dash': '<MPD><Period><AdaptationSet><Representation id="0"><BaseURL>{file}</BaseURL>'
  '</Representation></AdaptationSet></Period></MPD>',
  'sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n'
  'm=video {port} RTP/AVP 96\n'
  'a=rtpmap:96 H264/90000\n',
  'smil': '<smil><body><video src="{file}"/></body></smil>',
  'asx': '<asx version="3.0"><entry><ref href="http://127.0.0.1:{port}/a"/></entry></asx>',
  'rtsp': '[Reference]\nRef1=rtsp://127.0.0.1:{port}/a\n',
  'svg': '<svg xmlns="http://www.w3.org/2000/svg"><image href="{file}"/></svg>',
  'svg_entity': '<!DOCTYPE svg [<!ENTITY x SYSTEM "file://{file}">]><svg>&x;</svg>',
  'eps': '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({file}) (r) file closefile showpage\n',
  'ps': '%!PS\n(%pipe%gs) (w) file\nshowpage\n',
  'pdf': '%PDF-1.4\n1 0 obj<</Type/Catalog/OpenAction<</S/Launch/F({file})>>>>endobj\n%%EOF\n',
  'mvg': 'push graphic-context\nimage over 0,0 0,0 "https://127.0.0.1:{port}/|sh"\npop\n',
  'filter': "movie={file} [out]; amovie='{file}'\n",
  'script': '#!/bin/sh\ncat {file}\n',
  'pickle': "cos\nsystem\n(S'gs'\ntR.",
  'url': '[InternetShortcut]\nURL=http://127.0.0.1:{port}/\n',
  'vapoursynth': 'import vapoursynth as vs\nopen("{file}").read()\n',
}  # fmt: skip
ENDINGS = ('mp4', 'mkv', 'webm', 'avi', 'mov', 'ts', 'jpg', 'png', 'gif', 'webp')


def main() -> int:
  """Returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--count', type=int, default=1000)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args()
  faults, text = attack(options.count, options.seed)
  print('\n'.join([*text, *(f'FAULT {fault}' for fault in faults)]))
  return 1 if faults else 0


def attack(count: int, seed: int) -> tuple[list[str], list[str]]:
  """(faults, lines for people) of ingesting `count` files, and tars."""
  lines = []
  with tempfile.TemporaryDirectory(prefix='i2vgen_jax_hostile_') as folder:
    watch = Watch(pathlib.Path(folder))
    for name in ('files', 'tars'):
      source = watch.root / name
      source.mkdir()
      if name == 'tars':
        number = write_tars(source, watch)
      else:
        number = write_files(source, watch, count, seed)
      output = f'--output={watch.root / "out" / name}'
      command = ['data_pipelines', 'ingest', f'--input={source}', output, '--num_processes=1']
      code, text = watch.run([sys.executable, '-m', *command])
      rejected = re.findall(r'(?:rejected|listed) .*', text) or [text[-500:]]
      lines.append(f'{number} {name}: exit code {code}; {rejected[-1][:200]}')
      if code not in (0, 2) or 'Traceback' in text:  # 2: no example is left.
        watch.faults.append(f'{name}: exit code {code}: {text[-500:]}')
    faults = watch.close()
  lines.append(f'most memory of a process {watch.peak / 2**20:,.0f} MB')
  return faults, lines if faults else [*lines, 'nothing was opened, connected to, run or written']


class Watch:
  """Sees what is done beside reading the files.

  Attributes:
    root: folder of all that is made.
    decoy: a sound video that nobody may open.
    port: of this machine, TCP and UDP.
    faults: what was done.
    peak: bytes that a process held at most.
  """

  def __init__(self, root: pathlib.Path):
    self.root, self.faults, self.peak = root, [], 0
    (root / 'decoy').mkdir(parents=True)
    self.decoy = root / 'decoy' / 'decoy.mp4'
    self.decoy.write_bytes(fuzz_media._video(*fuzz_media.VIDEOS['h264.mp4']))
    (root / 'bin').mkdir()
    for name in PROGRAMS:
      (root / 'bin' / name).write_text(f'#!/bin/bash\n: > {root}/ran_{name}\n')
      (root / 'bin' / name).chmod(0o755)
    self._ports = [socket.socket(type=kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    self._ports[0].bind((LOOPBACK, 0))
    self.port = self._ports[0].getsockname()[1]
    self._ports[0].listen()
    libc = ctypes.CDLL(None)
    self._inotify = libc.inotify_init()
    libc.inotify_add_watch(self._inotify, bytes(self.decoy), IN_ACCESS | IN_OPEN)
    self._before = None

  def run(self, command: list[str]) -> tuple[int, str]:
    """(exit code, output) of a command, which is watched."""
    log = self.root / 'log.txt'
    environment = dict(os.environ, PATH=f'{self.root / "bin"}:{os.environ["PATH"]}')
    with log.open('wb') as output:
      self._before = self._listing()
      process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
      seen: set[str] = set()
      while process.poll() is None:
        seen |= self._look(process.pid)
        time.sleep(POLL_SECS)
    self.faults += sorted(seen)
    self.faults += [f'written: {name}' for name in sorted(self._listing() - self._before)]
    return process.returncode, log.read_text(errors='replace')

  def _listing(self) -> set[str]:
    """Of all that is not the command's own; tars may lead four folders up."""
    own = {str(path) for path in self.root.iterdir()} - {str(self.root / 'out')}
    above = {str(path) for folder in self.root.parents for path in folder.glob('PWNED*')}
    return own | above | {str(path) for path in pathlib.Path.cwd().glob('PWNED*')}

  def _look(self, parent: int) -> set[str]:
    found = set()
    inodes = _inet_sockets()
    for pid in _tree(parent):
      try:
        links = [os.readlink(path) for path in pathlib.Path(f'/proc/{pid}/fd').iterdir()]
        status = pathlib.Path(f'/proc/{pid}/status').read_text()
      except OSError:  # It has ended.
        continue
      found |= {f'socket: {inodes[link[8:-1]]}' for link in links if link[8:-1] in inodes}
      if 'VmHWM:' in status:
        self.peak = max(self.peak, 1024 * int(status.partition('VmHWM:')[2].split()[0]))
    return found

  def close(self) -> list[str]:
    """All faults."""
    if select.select([self._inotify], [], [], 0)[0]:
      self.faults.append(f'{self.decoy} was opened')
    for port in self._ports:
      if port.type == socket.SOCK_STREAM and select.select([port], [], [], 0)[0]:
        self.faults.append(f'port {self.port} was connected to')
      port.close()
    os.close(self._inotify)
    if self.peak > sandbox.MAX_MEMORY:
      self.faults.append(f'{self.peak:,} bytes of memory')
    return self.faults


def write_files(folder: pathlib.Path, watch: Watch, count: int, seed: int) -> int:
  """Writes files with captions; returns their number."""
  rng = random.Random(seed)
  others = [text.encode() for text in TEXTS.values()]
  kinds = itertools.product(TEXTS.items(), ENDINGS)
  for number in range(count):
    (name, text), ending = next(kinds, None) or (
      rng.choice(list(TEXTS.items())),
      rng.choice(ENDINGS),
    )
    relative = os.path.relpath(watch.decoy, folder)
    data = bytearray(
      text.replace('{file}', str(watch.decoy)).replace('{name}', relative)
      .replace('{port}', str(watch.port)).encode()
    )  # fmt: skip
    if number >= len(TEXTS) * len(ENDINGS):
      rng.choice(fuzz_media._WAYS)(data, rng, others)
    if number % 3 == 2:  # What comes first decides: the marks of real media before the text.
      data = bytearray(rng.choice(_MARKS)) + data
    (folder / f'{number:04}_{name}.{ending}').write_bytes(data)
    (folder / f'{number:04}_{name}.txt').write_text('a caption')
  return count


_MARKS = (
  b'\xff\xd8\xff\xe0\x00\x10JFIF\x00', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'RIFF\x00\x01\x00\x00WEBP',
  b'\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00', b'\x1a\x45\xdf\xa3', b'RIFF\x00\x01\x00\x00AVI ',
  b'\n\n', b'\xef\xbb\xbf', b'FLV\x01\x05',
)  # fmt: skip


def write_tars(folder: pathlib.Path, watch: Watch) -> int:
  """Writes tars of hostile members beside sound ones; returns their number."""
  for number, (members, ends) in enumerate(_tars(watch)):
    path = folder / f'{number:05}.tar'
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as tar:
      for info, data in [*_example('000'), *members, *_example('009')]:
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    if ends:
      path.write_bytes(path.read_bytes().rstrip(b'\0') + ends)
  return number + 1


def _example(key: str) -> list[tuple[tarfile.TarInfo, bytes]]:
  data = fuzz_media._picture(0)
  buffer = io.BytesIO()
  fuzz_media.PIL.Image.fromarray(data).save(buffer, 'jpeg')
  parts = {'jpg': buffer.getvalue(), 'txt': b'a caption', 'json': b'{}'}
  return [(tarfile.TarInfo(f'{key}.{ending}'), data) for ending, data in parts.items()]


def _tars(watch: Watch) -> Iterator[tuple[list[tuple[tarfile.TarInfo, bytes]], bytes]]:
  """(members, bytes after the end)."""
  for name in ('../../../../PWNED', '/PWNED', f'{watch.root}/PWNED', 'a/../../PWNED', '..\\PWNED'):
    yield _example(name), b''
  for kind in (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
  ):
    link = tarfile.TarInfo('001.jpg')
    link.type, link.linkname = kind, str(watch.decoy)
    link.devmajor, link.devminor = 1, 5
    yield [(link, b''), *_example('001')[1:]], b''
  for text in (b'[' * 200_000, b'{"a":' * 50_000, b'9' * 10_000, b'[1, 2]', b'{"similarity": [1]}'):
    yield [*_example('001')[:2], (tarfile.TarInfo('001.json'), text)], b''
  sizes = tarfile.TarInfo('GNUSparseFile.0/001.jpg')
  names = {'major': '1', 'minor': '0', 'name': '001.jpg', 'realsize': str(6 << 30)}
  sizes.pax_headers = {f'GNU.sparse.{name}': value for name, value in names.items()}
  yield [(sizes, f'1\n{6 << 30}\n0\n'.encode().ljust(512, b'\0')), *_example('001')[1:]], b''
  for size in (2**40, 2**62):
    lies = tarfile.TarInfo('002.jpg')
    lies.size = size
    yield [], b'\0' * 512 + lies.tobuf(tarfile.GNU_FORMAT) + b'x' * 512
  head = b'IHDR' + struct.pack('>IIBBBBB', 50_000, 50_000, 8, 2, 0, 0, 0)
  png = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + head + struct.pack('>I', 0)
  yield [(tarfile.TarInfo('001.png'), png), *_example('001')[1:]], b''
  for text in TEXTS.values():
    data = text.replace('{file}', str(watch.decoy)).replace('{port}', str(watch.port)).encode()
    yield [(tarfile.TarInfo('001.mp4'), data), *_example('001')[1:]], b''


def _tree(parent: int) -> list[int]:
  """A process and all below it."""
  found, waiting = [], [parent]
  while waiting:
    pid = waiting.pop()
    found.append(pid)
    for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
      try:
        waiting += map(int, path.read_text().split())
      except OSError:  # It has ended.
        continue
  return found


def _inet_sockets() -> dict[str, str]:
  """Inode -> protocol and local address in hex."""
  found = {}
  for protocol in ('tcp', 'tcp6', 'udp', 'udp6', 'raw', 'raw6'):
    try:
      rows = pathlib.Path(f'/proc/net/{protocol}').read_text().splitlines()[1:]
    except OSError:
      continue
    found |= {row.split()[9]: f'{protocol} {row.split()[1]}' for row in rows}
  return found


if __name__ == '__main__':
  sys.exit(main())
