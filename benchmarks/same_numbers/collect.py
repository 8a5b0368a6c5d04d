"""What the commands leave on the disk, as named arrays; read without any code of the trees.

Every file is read by what is inside (tensors, frames, records, fields), then as bytes: the first
tells what differs, the second that nothing else does.
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
# Metrics that say how long something took.
TIMINGS = re.compile(r'_secs$|_per_sec$|^goodput$|^tflops|^mfu$|memory|^slowest')


def run(folder: pathlib.Path) -> dict[str, Arrays]:
  """Losses, held-out losses, the newest checkpoint, frozen networks and samples of folder/run."""
  workdir = folder / 'run'
  found = dict(_metrics(workdir / 'metrics.jsonl'))
  steps = [int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()]
  newest = workdir / 'checkpoints' / str(max(steps))
  state = _orbax(newest)
  for part in ('params', 'ema_params', 'opt_state'):
    found[part] = {
      name.removeprefix(f'{part}/'): value
      for name, value in state.items()
      if name.startswith(f'{part}/')
    }
  rest = {name: value for name, value in state.items() if name.partition('/')[0] not in found}
  metadata = json.loads((newest / '_CHECKPOINT_METADATA').read_text())['custom_metadata']
  found['position'] = rest | _json(metadata)
  found['frozen'] = _orbax(workdir / 'frozen')
  if (workdir / 'samples').exists():
    found |= files(workdir, 'samples')
  return found


def files(folder: pathlib.Path, *names: str) -> dict[str, Arrays]:
  """One comparison per name: a file, or all files of a folder.

  Raises:
    ValueError: one is missing or empty.
  """
  found = {}
  for name in names:
    path = folder / name
    paths = sorted(p for p in path.rglob('*') if p.is_file()) if path.is_dir() else [path]
    arrays = {}
    for file in paths:
      prefix = f'{file.relative_to(path)}/' if path.is_dir() else ''
      arrays |= {prefix + inner: value for inner, value in read(file).items()}
    if not arrays:
      raise ValueError(f'{path} holds no files.')
    found[name] = arrays
  return found


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The content of one file, and its bytes where these say more."""
  if path.suffix == '.npz':
    with np.load(path) as stored:
      return dict(stored)
  inside = {}
  for ending, reader in READERS.items():
    if ending in path.name:
      inside = reader(path)
  return inside | {'bytes': np.fromfile(path, np.uint8)}


def _metrics(path) -> Iterator[tuple[str, Arrays]]:
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for part, is_held_out in (('losses', False), ('eval_loss', True)):
    values = {
      f'{name}/{row["step"]}': np.array(value)
      for row in rows
      for name, value in row.items()
      if name != 'step' and (name == 'eval_loss') == is_held_out and not TIMINGS.search(name)
    }
    if values:
      yield part, values


def _orbax(folder) -> dict[str, np.ndarray]:
  """The arrays of an Orbax checkpoint, on the host, whatever devices wrote it."""
  import jax
  import orbax.checkpoint as ocp

  [stored] = [path.parent for path in folder.rglob('_METADATA')]
  checkpointer = ocp.PyTreeCheckpointer()
  tree = checkpointer.metadata(stored).item_metadata.tree
  to_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  restored = checkpointer.restore(stored, restore_args=to_host)
  leaves = jax.tree_util.tree_flatten_with_path(restored)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in leaves
  }


def _video(path):
  import av

  with av.open(str(path)) as container:
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
  return {'frames': np.stack(frames)}


def _picture(path):
  import PIL.Image

  return {'pixels': np.asarray(PIL.Image.open(path))}


def _safetensors(path):
  import safetensors.numpy

  return safetensors.numpy.load_file(path)


def _torch(path):
  import torch

  stored = torch.load(path, weights_only=True)
  tensors = {name: value.numpy() for name, value in stored.pop('state_dict').items()}
  return tensors | {name: np.array(value) for name, value in stored.items()}


def _json(value, name='') -> dict[str, np.ndarray]:
  """{'a/0/b': leaf} of a path to a JSON file, or of what is in one."""
  if isinstance(value, pathlib.Path):
    value = json.loads(value.read_text())
  if not isinstance(value, dict | list) or not value:
    return {name or 'value': np.array(json.dumps(value))}
  items = value.items() if isinstance(value, dict) else enumerate(value)
  leaves = {}
  for key, inner in items:
    leaves |= _json(inner, f'{name}/{key}' if name else str(key))
  return leaves


def _records(path):
  """The fields of the records of an ArrayRecord file; floats are flat, all else is bytes."""
  from array_record.python import array_record_module
  from tensorflow_datasets.proto import tf_example_pb2

  stored = json.loads(path.with_name('features.json').read_text())['featuresDict']['features']
  dtypes = {name: feature.get('tensor', {}).get('dtype') for name, feature in stored.items()}
  reader = array_record_module.ArrayRecordReader(str(path))
  found = {}
  for number, record in enumerate(reader.read_all()):
    features = tf_example_pb2.Example.FromString(record).features.feature
    for name in sorted(features):
      kind = features[name].WhichOneof('kind')
      values = getattr(features[name], kind).value if kind else []
      if kind == 'bytes_list':
        known = {'float16', 'float32', 'float64'} & {dtypes.get(name)}
        values = np.frombuffer(b''.join(values), *known or {np.uint8})
      found[f'{number}/{name}'] = np.array(values)
  reader.close()
  return found


READERS = {
  '.mp4': _video,
  '.png': _picture,
  '.safetensors': _safetensors,
  '.pth': _torch,
  '.json': _json,
  '.array_record-': _records,
}
