"""The data card of an index: sources, rights, filters, counts and known limits, as Markdown.

It says what the manifests and sidecars say, and what they do not say. The model that is trained on
the index can be published with it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines.corpus import reader, schema, sidecars, storage

NUM_HOSTS = 10  # Of links, named.
_HOST = r"lower(regexp_extract(url, '^[a-z]+://([^/:?#]+)', 1))"


def write(
  folder: epath.Path, manifest: Mapping[str, Any], corpora: reader.Corpora, table: sidecars.Sidecars
) -> None:
  """Writes card.md beside an index.

  Args:
    folder: of the index.
    manifest: of the index.
    corpora: that are indexed.
    table: their sidecars.
  """
  drawn = ' AND '.join(f'({condition}\n)' for condition in manifest['where']) or 'TRUE'
  counted = ', '.join(f"count(*) FILTER (media = '{m}') AS {m}" for m in schema.MEDIA)
  lines = [
    '# Data card',
    '',
    f'{manifest["num_rows"]:,} rows, index {manifest["fingerprint"]}.',
    '',
    '## Sources',
    '',
    '| corpus | layout | read | rejected | fingerprint |',
    '|---|---|---|---|---|',
  ]
  stages = {}
  for name, directory in corpora.directories.items():
    found = reader.read_manifest(directory)
    num = sum(split['num_examples'] for split in found['splits'].values())
    of_corpus = name, found['layout'], f'{num:,}', f'{found["num_rejected"]:,}'
    lines.append(_row(*of_corpus, found['fingerprint']))
    stages[name] = {stage: _stage(directory, stage) for stage in schema.STAGES}
  licences = table.rows(
    f"SELECT coalesce(nullif(trim(license), ''), 'not told') AS name, {counted} FROM sidecars "
    f'WHERE {drawn} GROUP BY 1 ORDER BY count(*) DESC, 1'
  )
  hosts = table.rows(
    f'SELECT {_HOST} AS name, {counted} FROM sidecars WHERE ({drawn}) AND url IS NOT NULL '
    f'GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {NUM_HOSTS}'
  )
  lines += _counts('Licences that the sources tell', licences)
  lines += _counts('Hosts of the links, the commonest', hosts)
  lines += ['', '## Filters', '', '| condition | rows left | of those before, rejected by |']
  lines.append('|---|---|---|')
  for step in manifest['funnel']:
    rules = ', '.join(f'{rule} {num:,}' for rule, num in step.get('rejected_by', {}).items())
    lines.append(_row(f'`{step["condition"]}`', f'{step["num_rows"]:,}', rules))
  lines += ['', '## Known limits', '']
  lines += [f'- {limit}' for limit in _limits(table, drawn, stages, licences)]
  storage.write_bytes(folder / 'card.md', ('\n'.join(lines) + '\n').encode())


def _stage(directory: epath.Path, stage: str) -> dict[str, Any] | None:
  path = directory / 'sidecar' / stage / 'manifest.json'
  return storage.read_json(path) if path.exists() else None


def _counts(title: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
  if not rows:
    return []
  heads = _row('', *(f'{media}s' for media in schema.MEDIA))
  told = [_row(row['name'], *(f'{row[media]:,}' for media in schema.MEDIA)) for row in rows]
  return ['', f'## {title}', '', heads, '|' + '---|' * (1 + len(schema.MEDIA)), *told]


def _row(*cells: str) -> str:
  return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'


def _limits(
  table: sidecars.Sidecars,
  drawn: str,
  stages: Mapping[str, Mapping[str, dict | None]],
  licences: Sequence[Mapping[str, Any]],
) -> list[str]:
  """Sentences on what is not known of the rows."""
  found = []
  unknown = sum(sum(row[m] for m in schema.MEDIA) for row in licences if row['name'] == 'not told')
  if unknown:
    found.append(f'Of {unknown:,} rows no source tells the licence.')
  for name, of_stage in stages.items():
    curated = of_stage['curate']
    if curated is None:
      found.append(
        f'{name} was not curated: several shots in a row, copies and listed media may be drawn.'
      )
    else:
      for kind in ('denylists', 'allowlists'):
        if lists := curated.get(kind):  # Manifests of before have no allowlists.
          digests = ', '.join(digest[:12] for digest in lists.values())
          found.append(f'{name} was compared with {kind} (SHA-256 {digests}).')
      if reason := curated.get('no_denylist'):
        found.append(f'{name} was compared with no denylist: {reason}.')
    if of_stage['caption']:
      weights = ', '.join(f'{k} {v:g}' for k, v in of_stage['caption']['weights'].items())
      found.append(f'Captions of {name} by source and weight: {weights}.')
  for column, text in (
    ('nsfw_score', 'sexual content'), ('watermark_score', 'watermarks'), ('text_area', 'text'),
  ):  # fmt: skip
    where = f'SELECT count(*) AS n FROM sidecars WHERE ({drawn})'
    known = f'{where} AND {column} IS NOT NULL' if column in table.columns else f'{where} AND false'
    measured, total = table.rows(known)[0]['n'], table.rows(where)[0]['n']
    if measured < total:
      found.append(f'{total - measured:,} of {total:,} rows were not measured for {text}.')
  found.append('Whether persons who are shown have agreed was not asked of any source.')
  return found
