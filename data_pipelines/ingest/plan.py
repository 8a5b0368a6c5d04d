"""What a run of ingest is asked for: the input as it is listed now, and the options."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from data_pipelines import sources
from data_pipelines.corpus import reader, schema
from data_pipelines.ingest import shard as shard_lib
from data_pipelines.sources import lists, raw

OLDER_SHARD_EXAMPLES = 4096  # Of corpora that were ingested before they could grow.


@dataclasses.dataclass
class Plan:
  """An input, and the corpus that it is to become or to join.

  Attributes:
    source: the input.
    shards: all that it lists.
    output: folder of the corpus.
    manifest: of the corpus that is there; None if there is none.
    identity: changes if the listing changes, or an option that matters.
    threshold: keys whose hash is below it are held out, of what the source tells no split.
    takes: those of probe.SPECIAL that are taken.
    options: by flag, as the manifest keeps them; validation_fraction is None if it is not used.
  """

  source: raw.Source
  shards: list[raw.Shard]
  output: epath.Path
  manifest: dict[str, Any] | None
  identity: str
  threshold: int
  takes: tuple[str, ...]
  options: dict[str, Any]

  @classmethod
  def of(
    cls,
    path: epath.PathLike,
    output: epath.PathLike,
    layout: str | None,
    validation_fraction: float,
    takes: Sequence[str] = (),
    follow_outside: bool = False,
    takes_opted_out: bool = False,
  ) -> 'Plan':
    """Lists the input; the arguments are those of command.ingest.

    Raises:
      ValueError: no known layout, nothing listed, or options other than those of the corpus.
    """
    if not 0 <= validation_fraction < 1:
      raise ValueError(f'validation_fraction={validation_fraction} should be in [0, 1).')
    manifest = manifest_of(epath.Path(output))
    source = sources.open_source(path, layout, follow_outside)
    source.takes_opted_out = takes_opted_out
    if manifest:
      _check_layout(manifest, source, path)
    is_older = manifest is not None and 'versions' not in manifest
    if is_older and isinstance(source, lists.Lists):
      source.max_examples = OLDER_SHARD_EXAMPLES
    shards = source.shards()
    if not is_older:
      shards = [part for shard in shards for part in source.bounded(shard)]
    if len(shards) > schema.MAX_SHARDS:
      raise ValueError(
        f'{path} makes {len(shards):,} shards, and a corpus has {schema.MAX_SHARDS:,} at most: '
        'ingest parts of it into several.'
      )
    if not shards:
      raise ValueError(
        f'{path} holds nothing of --layout={layout}: leave it out, and the layout is detected.'
      )
    told = any(shard.split == 'validation' for shard in shards)
    options = dict(
      validation_fraction=None if told else validation_fraction,
      hdr='tonemap' if 'hdr' in takes else 'refuse',
      interlaced='deinterlace' if 'interlaced' in takes else 'refuse',
      follow_outside=follow_outside,
      opted_out='take' if takes_opted_out else 'refuse',
    )
    takes = tuple(sorted(takes))
    threshold = 0 if told else _threshold(validation_fraction)
    identity = _identity(source, shards, threshold, takes)
    if manifest and not is_older:
      options = _checked(manifest['options'], options, epath.Path(output))
      threshold = _threshold(options['validation_fraction'] or 0.0)
    found = epath.Path(output), manifest, identity, threshold, takes, options
    return cls(source, shards, *found)

  @property
  def parts(self) -> epath.Path:
    """Folder of what is under way."""
    return self.output / '_parts'


def manifest_of(output: epath.Path) -> dict[str, Any] | None:
  """Of the corpus in a folder; None if there is none."""
  return reader.read_manifest(output) if (output / 'manifest.json').exists() else None


def _threshold(validation_fraction: float) -> int:
  return int(validation_fraction * shard_lib.HASH_RANGE)


def _identity(
  source: raw.Source, shards: Sequence[raw.Shard], threshold: int, takes: Sequence[str]
) -> str:
  digest = hashlib.sha256(f'{schema.VERSION} {threshold}'.encode())
  for shard in shards:
    digest.update(json.dumps(source.describe(shard)).encode())
  if source.follow_outside:
    digest.update(b'follow_outside')
  if source.takes_opted_out:
    digest.update(b'takes_opted_out')
  if takes:
    digest.update(json.dumps(takes).encode())
  return digest.hexdigest()[:16]


def _check_layout(manifest: Mapping[str, Any], source: raw.Source, path: epath.PathLike) -> None:
  names = {kind.__name__: name for name, kind in sources.LAYOUTS.items()}
  found, kept = type(source).__name__, manifest['layout']
  if found != kept:
    raise ValueError(
      f'{path} is read as --layout={names[found]}, and the corpus is of other input, of '
      f'--layout={names.get(kept, kept)}: give that layout, or another --output.'
    )


def _checked(
  kept: Mapping[str, Any], given: Mapping[str, Any], output: epath.Path
) -> dict[str, Any]:
  """The corpus' options; raises ValueError for one that is given otherwise."""
  for name, value in kept.items():
    is_used = value is not None and given[name] is not None
    if is_used and given[name] != value:
      flag = f'--{name}={value}' if value is not True else f'--{name}'
      flag = f'no --{name}' if value is False else flag
      raise ValueError(
        f'{output} was ingested with {flag}, and now --{name} is {given[name]}: a corpus keeps its '
        'options. Give the same, or another --output.'
      )
  return dict(kept)
