"""LoRA: starts as the model was, trains alone, and PEFT reads what is written."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import meshes
from i2vgen_jax import session as session_lib
from i2vgen_jax import train
from i2vgen_jax.models import lora
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.pretrained import configs, tensors, unet_names
from i2vgen_jax.pretrained import peft as peft_lib
from i2vgen_jax.sampling import stages
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import optimizer
from i2vgen_jax.training import step as step_lib
from tests import tiny
from tests.i2vgen_jax.test_export import random_params, small_config

TEMPORAL = r'attn\d/to_(q|k|v|out_0)/kernel$|temp_conv/conv\d_\d/kernel$'


def adapted(rank=3, **options):
  """(config, AdaptedUNet, abstract parameters) of the small model."""
  config = small_config()
  config.lora.update(rank=rank, alpha=5.0, **options)
  built = session_lib.build(config)
  inputs = built.unet_inputs(2, 32, 32)
  return config, built.unet, jax.eval_shape(built.unet.init, jax.random.key(0), *inputs)['params']


def leaves(tree):
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def test_adapters_lie_on_all_attention_and_those_of_frames_too():
  _, _, abstract = adapted()
  names = list(leaves(jax.tree.map(lambda leaf: np.zeros(leaf.shape), abstract[lora.KEY])))
  for part in ("['attentions_0']", "['temp_attentions_0']", "['mid_block']", "['transformer_in']"):
    assert any(part in name for name in names), part
  assert all("['to_" in name for name in names)


def test_new_adapters_change_nothing_and_trained_ones_add_their_product():
  _, _, abstract = adapted()
  params = random_params(abstract, seed=1)
  layer = ('mid_block', 'attentions_0', 'transformer_blocks_0', 'attn1', 'to_q')

  def at(tree):
    for name in layer:
      tree = tree[name]
    return tree

  adapter = at(params[lora.KEY])
  expected = at(params)['kernel'] + 5.0 / 3 * adapter['down'] @ adapter['up']
  np.testing.assert_allclose(at(lora.merge(params, 5.0))['kernel'], expected, atol=1e-5)

  for path, value in leaves(params[lora.KEY]).items():
    value[:] = 0 if path.endswith("['up']") else value
  merged = leaves(lora.merge(params, 5.0))
  assert set(merged) == {path for path in leaves(params) if not path.startswith("['lora']")}
  for path, value in merged.items():
    np.testing.assert_array_equal(value, leaves(params)[path])


def test_only_adapters_are_trained_and_only_they_have_an_optimizer_state():
  config, _, abstract = adapted()
  params = random_params(abstract, seed=1)
  rule = optimizer.make_optimizer(
    params, lambda step: 0.1, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0,
    groups=lora.groups(config),
  )  # fmt: skip
  state = rule.init(params)
  size = lambda tree: sum(np.size(leaf) for leaf in jax.tree.leaves(tree))  # noqa: E731
  assert size(state) < 2.1 * size(params[lora.KEY])
  updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), state, params)
  before, after = leaves(params), leaves(optax.apply_updates(params, updates))
  for path in before:
    assert (before[path] != after[path]).any() == path.startswith(f"['{lora.KEY}']"), path


def test_a_pattern_that_fits_nothing_is_named():
  config, unet, _ = adapted()
  config.lora.match = 'nothing'
  built = session_lib.build(config)
  with pytest.raises(ValueError, match="lora.match='nothing' fits no kernel"):
    jax.eval_shape(built.unet.init, jax.random.key(0), *built.unet_inputs(2, 32, 32))


def exported(folder):
  """(config, named tensors of the U-Net, of the merged one), with the adapters in `folder`."""
  torch = pytest.importorskip('torch')
  config, _, abstract = adapted(match=TEMPORAL)
  params = random_params(abstract, seed=1)
  peft_lib.export_peft(folder, config, params[lora.KEY])

  def named(tree):
    found = tensors.to_torch(tree, unet_names.name_of)
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

  base = {name: block for name, block in params.items() if name != lora.KEY}
  merged = named(lora.merge(params, config.lora.alpha))
  changed = [name for name, value in named(base).items() if not torch.equal(value, merged[name])]
  assert len(changed) == len(jax.tree.leaves(params[lora.KEY])) // 2
  assert any('temp_convs' in name for name in changed)
  return config, named(base), merged


def test_peft_reads_the_adapters_and_merges_them_as_we_do(tmp_path):
  diffusers, peft = pytest.importorskip('diffusers'), pytest.importorskip('peft')
  torch = pytest.importorskip('torch')
  config, base, ours = exported(tmp_path / 'adapter')
  theirs = diffusers.I2VGenXLUNet.from_config(configs.unet_config(config))
  theirs.load_state_dict(base)
  merged = peft.PeftModel.from_pretrained(theirs, tmp_path / 'adapter').merge_and_unload()
  state = merged.state_dict()
  assert set(state) == set(ours)
  for name, value in ours.items():
    torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('loader', ['load_attn_procs', 'load_lora_adapter'])
def test_diffusers_loads_the_adapters_and_computes_with_them_as_with_merged_weights(
  loader, tmp_path
):
  """By today's loader of this class, and by the one that diffusers has for others."""
  diffusers, torch = pytest.importorskip('diffusers'), pytest.importorskip('torch')
  pytest.importorskip('peft')
  from diffusers.loaders import peft as diffusers_peft

  bases = (diffusers.I2VGenXLUNet, diffusers_peft.PeftAdapterMixin)
  with_adapters = type('I2VGenXLUNet', bases, {})
  config, base, merged = exported(tmp_path / 'adapter')
  torch.manual_seed(0)
  inputs = dict(
    sample=torch.randn(1, 4, 2, 4, 4),
    timestep=torch.tensor([300]),
    fps=torch.tensor([8]),
    image_latents=torch.randn(1, 4, 2, 4, 4),
    image_embeddings=torch.randn(1, 1, config.unet.context_dim),
    encoder_hidden_states=torch.randn(1, 5, config.unet.context_dim),
  )
  outputs = []
  for weights, folder in ((base, None), (base, tmp_path / 'adapter'), (merged, None)):
    unet = with_adapters.from_config(configs.unet_config(config)).eval()
    unet.load_state_dict(weights)
    if folder and loader == 'load_attn_procs':
      unet.load_attn_procs(str(folder))
    elif folder:
      name = 'pytorch_lora_weights.safetensors'
      unet.load_lora_adapter(str(folder), prefix='unet', weight_name=name)
    with torch.no_grad():
      outputs.append(unet(**inputs).sample)
  without, adapted_, expected = outputs
  torch.testing.assert_close(adapted_, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
  assert (without - expected).norm() > 0.01 * expected.norm()


def test_export_of_no_adapters_is_refused(tmp_path):
  with pytest.raises(ValueError, match='this run has none: lora.rank is 0'):
    peft_lib.export_peft(tmp_path / 'adapter', small_config(), {})
  assert not list(tmp_path.iterdir())


def test_a_frozen_kernel_in_bfloat16_has_no_gradient_no_average_and_no_second_copy(demo_corpus):
  config = tiny.get_config(demo_corpus)
  config.lora.update(rank=2, frozen_dtype='bfloat16')
  session = session_lib.build(config).on(mesh_lib.make_mesh(meshes.get('cpu')))
  state, _, _, _ = step_lib.from_config(session)
  frozen = {name: block for name, block in state.params.items() if name != lora.KEY}
  for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
    assert leaf.dtype == (jnp.bfloat16 if leaf.ndim > 1 else jnp.float32), path
  assert list(state.ema_params) == [lora.KEY]
  params = random_params(state.params, seed=1)
  seen = []

  def loss(params, frozen, batch, seed, step):
    seen.append(params)
    return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(params)), None

  trained = optimizer.trained(config, state.params)
  _, gradients = step_lib.make_mean_gradient(loss, 1, trained)({}, params, {}, None, None)
  sizes = {name: sum(map(jnp.size, jax.tree.leaves(b))) for name, b in gradients.items()}
  adapters = sum(leaf.size for leaf in jax.tree.leaves(state.params[lora.KEY]))
  assert sizes.pop(lora.KEY) == adapters
  assert sum(sizes.values()) == len(jax.tree.leaves(frozen))  # A scalar for each.
  assert jax.tree.map(jnp.shape, seen[0]) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_run_with_adapters_starts_from_another_and_leaves_its_weights(
  dtype, demo_corpus, finished_run, tmp_path
):
  config = tiny.get_config(demo_corpus, num_steps=3)
  config.lora.update(rank=2, frozen_dtype=dtype)
  config.start = str(finished_run)
  config.train.stop_at = 2
  assert train.train(config, tmp_path / 'run') == 0
  config.train.stop_at = 0  # The rest, from the checkpoint.
  assert train.train(config, tmp_path / 'run') == 0
  params, averaged = (stages.load(tmp_path / 'run', weights=name).params for name in ('raw', 'ema'))
  base = lora.held(stages.load(finished_run).params, dtype)
  adapters = leaves(params.pop(lora.KEY))
  assert any(value.any() for path, value in adapters.items() if 'up' in path)
  for path, value in leaves(averaged.pop(lora.KEY)).items():
    assert 'up' not in path or (value != adapters[path]).any()
  for path, value in leaves(base).items():
    np.testing.assert_array_equal(leaves(params)[path], value)
    np.testing.assert_array_equal(leaves(averaged)[path], value)
  assert run_config.read(tmp_path / 'run').lora.rank == 2
