"""How those who read what launch renders take it apart: bash, systemd and Kubernetes.

systemd's rules are those of systemd.service(5), "Command lines", and systemd.syntax(7), "Quoting";
Kubernetes' those of the Container API's `args`.
"""

import json
import os
import re
import subprocess
import sys

# A program in the place of another one on PATH: writes its arguments beside itself.
_STAND_IN = """\
#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(__file__).parent
given = {{name: value for name, value in os.environ.items() if name.startswith('GIVEN_')}}
with (folder / 'environments.jsonl').open('a') as file:
  file.write(json.dumps(given) + chr(10))
with (folder / 'calls.jsonl').open('a') as file:
  file.write(json.dumps([os.path.basename(__file__), *sys.argv[1:]]) + chr(10))
{body}
"""
_ESCAPES = {'\\': '\\', '"': '"', "'": "'", 's': ' '}


def stand_in(folder, name, body=''):
  """Puts a program on what will be PATH; see _STAND_IN."""
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(_STAND_IN.format(python=sys.executable, body=body))
  (folder / name).chmod(0o755)


def calls(folder):
  """Programs of a folder that were called, each with its arguments."""
  return [json.loads(line) for line in (folder / 'calls.jsonl').open()]


def environments(folder):
  """Variables GIVEN_* of the programs of a folder that were called."""
  return [json.loads(line) for line in (folder / 'environments.jsonl').open()]


def bash(text, folder, path=None, **variables):
  """Runs a script, with programs of the folder `path` first."""
  search = ':'.join(filter(None, [path and str(path), os.environ['PATH']]))
  environment = dict(os.environ, PATH=search, **variables)
  return subprocess.run(
    ['bash', '-s'], input=text, cwd=folder, env=environment, capture_output=True, text=True
  )


def systemd_words(unit, key='ExecStart'):
  """The words that systemd runs; raises ValueError where it would fill something in or stop."""
  text = re.sub(r'\\\n\s*', ' ', unit)  # A line that goes on.
  (line,) = re.findall(rf'^{key}=(.*)$', text, re.MULTILINE)
  words, word, quote, index = [], None, '', 0
  while index < len(line):
    char = line[index]
    if char == '\\':
      index += 1
      word = (word or '') + _ESCAPES[line[index]]
    elif quote:
      word, quote = (word, '') if char == quote else (word + char, quote)
    elif char in '"\'':
      word, quote = word or '', char
    elif char == ';' and word is None and line[index + 1 : index + 2] in (' ', ''):
      raise ValueError('a second command begins')
    elif char == ' ':
      words += [] if word is None else [word]
      word = None
    else:
      word = (word or '') + char
    index += 1
  if quote:
    raise ValueError('a quote is open')
  words += [] if word is None else [word]
  return [re.sub(r'%(.?)|\$(.?)', _filled_in, word) for word in words]


def _filled_in(match):
  if match[0] not in ('%%', '$$'):
    raise ValueError(f'{match[0]} is filled in')
  return match[0][0]


def kubernetes_word(text, variables):
  """What a container gets for an argument: $(NAME) is filled in, $$ is $."""
  known = lambda match: '$' if match[0] == '$$' else variables.get(match[1], match[0])  # noqa: E731
  return re.sub(r'\$\$|\$\(([^)]*)\)', known, text)
