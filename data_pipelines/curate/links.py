"""The form in which links to files are compared: two that name one file are one."""

import re
import urllib.parse

from data_pipelines.sources import text

_PORTS = {'http': 80, 'https': 443, 'ftp': 21}
_TO_ENCODE = re.compile(r'%[0-9A-Fa-f]{2}|[^!-~]|["<>\\^`{|}%]')
# Links that are in normal form already but for their scheme: most are, and that is faster to see.
_PLAIN = re.compile(
  r"https?://([a-z0-9-]+(?:\.[a-z0-9-]+)*)((?:/[\w.~!$&'()*+,;=:@-]*)*)(\?[\w.~!$&'()*+,;=:@/?-]+)?",
  re.ASCII,
)
_UNRESERVED = re.compile(r'[A-Za-z0-9._~-]')


def normal(url: str) -> str | None:
  """The form in which links are compared; None if it is no link.

  As of RFC 3986: host in lower case and ASCII, no port that is the default, percent-encoding only
  where it must be and in upper case, no dot segments, '/' for an empty path. http counts as https,
  and the fragment is dropped: the file is the same. A slash at the end of a path counts.
  """
  plain = _PLAIN.fullmatch(url)
  if plain and '/.' not in plain[2]:
    return f'https://{plain[1]}{plain[2] or "/"}{plain[3] or ""}'
  return _rebuilt(url)


def _rebuilt(url: str) -> str | None:
  try:
    parts = urllib.parse.urlsplit(url.strip())
    host, port = parts.hostname or '', parts.port
  except ValueError:
    return None
  decoded = urllib.parse.unquote(host)
  host = (host if set(decoded) & set('/?#@:[]%') else decoded.lower()).rstrip('.')
  if not parts.scheme or not host or not text.is_clean(url):
    return None
  if not host.isascii():
    try:
      host = host.encode('idna').decode()
    except UnicodeError:
      host = _encoded(host)
  host = f'[{host}]' if ':' in host else host
  if port is not None and port != _PORTS.get(parts.scheme):
    host = f'{host}:{port}'
  user = parts.netloc.rpartition('@')[0]
  scheme = 'https' if parts.scheme == 'http' else parts.scheme
  path = _without_dots(_encoded(parts.path)) or '/'
  query = f'?{_encoded(parts.query)}' if parts.query else ''
  return f'{scheme}://{user}{"@" if user else ""}{host}{path}{query}'


def _encoded(part: str) -> str:
  return _TO_ENCODE.sub(_encode, part)


def _encode(match: re.Match) -> str:
  found = match[0]
  if len(found) < 3:
    return urllib.parse.quote(found, safe='')
  character = chr(int(found[1:], 16))
  return character if _UNRESERVED.fullmatch(character) else found.upper()


def _without_dots(path: str) -> str:
  if '/.' not in path:
    return path
  kept: list[str] = []
  parts = path.split('/')
  for part in parts:
    if part == '..':
      del kept[max(1, len(kept) - 1) :]
    elif part != '.':
      kept.append(part)
  return '/'.join(kept + [''] * (parts[-1] in ('.', '..')))
