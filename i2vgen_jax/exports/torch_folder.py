"""A folder that needs torch and safetensors alone: weights, config.json, modeling.py, tokenizers.

modeling.py is the code of torch_model/ in one file. Tensors have the names of our own modules, with
dots; every list of conditions that a config can name fits.
"""

import ast
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from i2vgen_jax import session as session_lib
from i2vgen_jax.models import lora
from i2vgen_jax.pretrained import peft, tensors, tokenizers
from i2vgen_jax.process import output_folder
from i2vgen_jax.sampling import generate

CODE = pathlib.Path(__file__).parent / 'torch_model'
# Its files, each of which imports only those before it.
PARTS = (
  'layers', 'conditioners', 'unet', 'vae', 'clip', 't5', 'tokenizers', 'pictures', 'samplers',
  'model',
)  # fmt: skip
OWN_IMPORT = 'i2vgen_jax.exports.torch_model.'
# The conditions that it has a class for.
CONDITIONERS = (
  'first_frame_latents', 'fps', 'global_image_tokens', 'image_latent_tokens', 'image_latents',
  'image_tokens', 'last_frame', 'motion', 't5_text', 'text',
)  # fmt: skip
# Names that are no entry of a list, or an entry of one.
RENAMED = (
  (r'\btime_embedding\.linear\.', 'time_embedding.linear_'),
  (r'\.ff\.net\.2\.', '.ff.net_2.'),
  (r'\.wi\.weight$', '.wi.0.weight'),
)
DOCSTRING = """A model of i2vgen_jax in PyTorch, in one file: its networks, and sampling from them.

  import modeling  # In the folder of the weights.
  model = modeling.from_pretrained('FOLDER')
  video = model.sample('a red circle moves left', image)  # uint8 (frames, height, width, 3).

It needs torch >= 2.1, and safetensors to read the weights; nothing else. `model.unet` is the
network that was trained; its dropout acts after model.train(). Apache License 2.0.
"""


def export_torch(
  output: epath.PathLike,
  session: session_lib.Session,
  read_params: Callable[[str], Any],
  dtype: str = 'float32',
  adapters: tensors.Params = None,
  files: Mapping[str, bytes] | None = None,
) -> None:
  """Writes the folder, or nothing.

  Args:
    output: folder that does not exist yet.
    session: of the run.
    read_params: 'unet' or a frozen network -> its parameters; called for one after the other.
    dtype: of the tensors.
    adapters: the run's block of LoRA adapters, to be written beside weights without them; None if
      the U-Net's parameters have them merged, or there are none.
    files: more files by name.

  Raises:
    ValueError: `output` exists, a condition has no class in PyTorch, or weights are not finite in
      `dtype`.
  """
  output_folder.check(output)
  content = settings(session, has_adapters=bool(adapters))
  schedules = dict(trained=session.schedule, sampled=session.schedule)
  if session.config.sample.schedule:
    schedules['sampled'] = session.schedule.like(session.config.sample.schedule)
  tables = {name: schedule.alphas_cumprod_T for name, schedule in schedules.items()}
  with output_folder.written_whole(output) as folder:
    (folder / 'config.json').write_text(json.dumps(content, indent=2) + '\n')
    (folder / 'modeling.py').write_text(joined_code(), encoding='utf-8')
    for name, data in (files or {}).items():
      (folder / name).write_bytes(data)
    _write_tokenizers(folder, session)
    _save(folder / 'schedule.safetensors', tables)
    for network in ('unet', *_networks(session)):
      params = read_params(network)
      named = tensors.to_torch(params, name_of, dtype=jnp.dtype(dtype))
      _save(folder / f'{network}.safetensors', named)
      del params, named  # Before the next network is read.
    if adapters:
      _save(folder / 'lora.safetensors', peft.matrices(adapters, name_of))


def name_of(path: str) -> str:
  """'ff/net_2/kernel' -> 'ff.net_2.weight': the tensor of a parameter of any of our networks."""
  name = tensors.torch_name(path)
  for pattern, replacement in RENAMED:
    name = re.sub(pattern, replacement, name)
  return name


def settings(session: session_lib.Session, has_adapters: bool = False) -> dict[str, Any]:
  """Content of config.json.

  Args:
    session: of the run.
    has_adapters: whether adapters lie beside the weights.

  Raises:
    ValueError: a condition has no class in PyTorch.
  """
  config = session.config
  unknown = [line['kind'] for line in config.unet.conditioners if line['kind'] not in CONDITIONERS]
  if unknown:
    raise ValueError(
      f'unet.conditioners names {unknown}, which torch_model/conditioners.py has no class for; it '
      f'has {", ".join(CONDITIONERS)}. Add one there, and its name to CONDITIONERS.'
    )
  networks = {name: _fields(session.networks[name]) for name in _networks(session)}
  networks['vae'] |= {name: config.vae[name] for name in ('scaling_factor', 'frames_per_chunk')}
  bucket = session.sample_bucket()
  sample = generate.settings(config)
  del sample['prediction_type'], sample['schedule']  # The schedule's table is in a file.
  sample |= {name: getattr(bucket, name) for name in ('frames', 'height', 'width', 'fps')}
  if 'motion' in session.signals:
    sample['motion'] = None  # Unknown.
  content = dict(
    unet=_unet_fields(session),
    **networks,
    prediction_type=config.loss.prediction_type,
    sample=sample | dict(negative_prompt=config.negative_prompt),
    lora=dict(rank=config.lora.rank, alpha=config.lora.alpha) if has_adapters else None,
  )
  if 'text_encoder' in networks:
    tokenizer = tokenizers.load_clip(_folder(session, 'text'), config.pad_token)
    length = min(tokenizer.model_max_length, config.text_encoder.model.max_length)
    content['tokenizer'] = dict(pad_token=config.pad_token, length=length)
  return json.loads(json.dumps(content, default=dict))


def joined_code() -> str:
  """The text of modeling.py: torch_model's files, one after the other."""
  imports, bodies = set(), []
  for part in PARTS:
    source = (CODE / f'{part}.py').read_text('utf-8')
    statements = ast.parse(source).body
    body = [node for node in statements[1:] if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in statements:
      module = getattr(node, 'module', '') or ''
      if isinstance(node, ast.Import | ast.ImportFrom) and not module.startswith(OWN_IMPORT):
        imports.add(ast.unparse(node))
    lines = source.splitlines()
    start = statements[statements.index(body[0]) - 1].end_lineno or 0
    heading = ast.get_docstring(ast.parse(source)) or ''
    comment = '\n'.join(f'# {line}'.rstrip() for line in heading.splitlines())
    bodies.append(comment + '\n\n\n' + '\n'.join(lines[start:]).strip())
  return '\n\n\n'.join([f'"""{DOCSTRING}"""\n\n{_sorted_imports(imports)}', *bodies]) + '\n'


def _sorted_imports(lines: set[str]) -> str:
  """Import lines in two blocks, with one line for each module."""
  names: dict[str, set[str]] = {}
  for line in lines:
    module, _, imported = line.removeprefix('from ').partition(' import ')
    names.setdefault(module, set()).update(filter(None, imported.split(', ')))
  blocks: tuple[list[str], list[str]] = ([], [])
  for module, imported in sorted(names.items(), key=lambda item: (bool(item[1]), item[0])):
    line = f'from {module} import {", ".join(sorted(imported))}' if imported else module
    blocks[re.search(r'\b(torch|safetensors)\b', module) is not None].append(line)
  return '\n\n'.join('\n'.join(block) for block in blocks)


def _networks(session: session_lib.Session) -> list[str]:
  """The frozen networks that sampling needs, but no other that the run may hold."""
  read = {network for signal in session.signals.values() for network in signal.networks}
  return [name for name in session.networks if name == 'vae' or name in read]


def _fields(module: nn.Module) -> dict[str, Any]:
  """A module's fields, but for its type of computation."""
  ours = module.__dataclass_fields__
  return {name: getattr(module, name) for name in ours if name not in ('dtype', 'parent', 'name')}


def _unet_fields(session: session_lib.Session) -> dict[str, Any]:
  config = session.config
  networks: Mapping[str, Any] = session.networks
  widths = dict(
    image_embedding=networks['image_encoder'].projection_dim if 'image_encoder' in networks else 0,
    t5_text=networks['t5'].hidden_size if 't5' in networks else 0,
  )
  fields = _fields(lora.bare(session.unet))
  for ours in ('remat', 'conditioners'):
    del fields[ours]
  lines = [dict(line) for line in config.unet.conditioners]
  return fields | dict(conditioners=lines, signal_widths=widths)


def _folder(session: session_lib.Session, signal: str) -> str:
  """Where the tokenizer of a signal lies."""
  signals: Mapping[str, Any] = session.signals
  return signals[signal].folder()


def _write_tokenizers(folder: pathlib.Path, session: session_lib.Session) -> None:
  networks = _networks(session)
  if 'text_encoder' in networks:
    files = ('vocab.json', 'merges.txt')
    tokenizers.copy_files(files, _folder(session, 'text'), folder / 'tokenizer')
  if 't5' in networks:
    content = tokenizers.t5_pieces(_folder(session, 't5_text'))
    text = json.dumps(content, ensure_ascii=False)
    (folder / 't5_tokenizer.json').write_text(text, encoding='utf-8')


def _save(path: pathlib.Path, named: Mapping[str, np.ndarray]) -> None:
  safetensors.numpy.save_file(dict(named), path, metadata={'format': 'pt'})
  path.chmod(0o644)  # safetensors lets only the owner read.
