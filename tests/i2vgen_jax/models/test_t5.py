"""T5's encoder, its weights and its tokenizer against transformers' and sentencepiece's own."""

import functools
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import sentencepiece
import torch
import transformers
from transformers.models.t5 import modeling_t5

from i2vgen_jax.models import t5
from i2vgen_jax.pretrained import read, t5_names, tensors, tokenizers

BAR = 1e-4  # Relative L2, float32: 3e-6 to 1.3e-5 seen.

# As config.json of the releases has them. Depth is cut where a number of layers is given to `make`.
SHAPES = {
  'small': dict(d_model=512, d_ff=2048, d_kv=64, num_layers=6, num_heads=8),
  'base': dict(d_model=768, d_ff=3072, d_kv=64, num_layers=12, num_heads=12),
  'v1.1 small': dict(d_model=512, d_ff=1024, d_kv=64, num_layers=8, num_heads=6),
  'v1.1 base': dict(d_model=768, d_ff=2048, d_kv=64, num_layers=12, num_heads=12),
  'v1.1 xl': dict(d_model=2048, d_ff=5120, d_kv=64, num_layers=24, num_heads=32),
  'v1.1 xxl': dict(d_model=4096, d_ff=10240, d_kv=64, num_layers=24, num_heads=64),
  'tiny': dict(d_model=32, d_ff=48, d_kv=8, num_layers=3, num_heads=6),
  'v1.1 tiny': dict(d_model=32, d_ff=48, d_kv=8, num_layers=3, num_heads=6),
}
VOCABULARY = 160


def make(name, num_layers=None, kind=transformers.T5EncoderModel):
  """(transformers' model with lively weights, ours of the same shape)."""
  shape = SHAPES[name] | (dict(num_layers=num_layers) if num_layers else {})
  activation = 'gated-gelu' if name.startswith('v1.1') else 'relu'
  torch.manual_seed(0)
  config = transformers.T5Config(VOCABULARY, feed_forward_proj=activation, **shape)
  theirs = enliven(kind(config).eval())
  ours = t5.T5Encoder(
    vocab_size=VOCABULARY,
    hidden_size=shape['d_model'],
    intermediate_size=shape['d_ff'],
    head_dim=shape['d_kv'],
    num_layers=shape['num_layers'],
    num_heads=shape['num_heads'],
    max_length=256,
    activation=activation,
  )
  return theirs, ours


@torch.no_grad()
def enliven(model):
  """Takes initial weights to what training makes of them: position biases of several units, norms
  of various scale, logits around ten, a residual stream that grows."""
  for name, parameter in model.named_parameters():
    if 'relative_attention_bias' in name:
      parameter.normal_(0, 3)
    elif 'layer_norm' in name:
      parameter.mul_(torch.exp(0.3 * torch.randn_like(parameter)))
    elif name.endswith(('.o.weight', '.wo.weight')):
      parameter.mul_(4)
    elif name.endswith('.q.weight'):
      parameter.mul_(3)
  return model


def abstract(module):
  ids = np.zeros((1, 2), np.int32)
  return jax.eval_shape(module.init, jax.random.key(0), ids)['params']


def convert(model, module):
  state = {name: value.float().numpy() for name, value in model.state_dict().items()}
  return tensors.from_formats(state, abstract(module), t5_names.name_of, t5_names.formats(module))[
    0
  ]


def captions(lengths, length):
  """Random ids, padded after `lengths`."""
  ids = np.random.default_rng(0).integers(1, VOCABULARY, (len(lengths), length))
  return np.where(np.arange(length) < np.reshape(lengths, (-1, 1)), ids, 0)


@torch.no_grad()
def states_of(model, ids, **options):
  mask = torch.from_numpy(ids != 0).long()
  return model(torch.from_numpy(ids), attention_mask=mask, **options)


def relative_l2(ours, theirs):
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def distance(name, num_layers=None, lengths=(24, 9, 1, 0), length=24):
  theirs, ours = make(name, num_layers)
  params, ids = convert(theirs, ours), captions(lengths, length)
  expected = states_of(theirs, ids).last_hidden_state.numpy()
  states = jax.jit(ours.apply)({'params': params}, ids)
  assert states.dtype == jnp.float32 and states.shape == expected.shape
  return relative_l2(states, expected)


@pytest.mark.parametrize('name', ['small', 'base', 'v1.1 small', 'v1.1 base'])
def test_all_states_equal_those_of_transformers(name):
  """In full; at padded positions too, and in a caption that is all padding."""
  assert distance(name) < BAR


@pytest.mark.parametrize('name', ['tiny', 'v1.1 tiny'])
def test_states_equal_those_of_transformers_beyond_the_farthest_bucket(name):
  assert distance(name, lengths=(200, 150, 3), length=200) < BAR


def test_the_width_of_xl_equals_transformers():
  assert distance('v1.1 xl', num_layers=2) < BAR


@pytest.mark.slow
def test_the_width_of_xxl_equals_transformers():
  assert distance('v1.1 xxl', num_layers=2) < BAR


@pytest.mark.parametrize('num_buckets, max_distance', [(32, 128), (16, 64), (64, 300)])
def test_position_buckets_are_those_of_transformers(num_buckets, max_distance):
  length = 1500
  buckets_LM = t5.position_buckets(length, num_buckets, max_distance)
  offsets_LM = np.arange(length)[None] - np.arange(length)[:, None]
  expected = modeling_t5.T5Attention._relative_position_bucket(
    torch.from_numpy(offsets_LM), num_buckets=num_buckets, max_distance=max_distance
  )
  np.testing.assert_array_equal(buckets_LM, expected.numpy())


def test_bfloat16_holds_a_residual_stream_beyond_float16():
  theirs, ours = make('v1.1 small')
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      if name.endswith(('.o.weight', '.wo.weight')):
        parameter.mul_(2e4)
  ids = captions((24, 9, 1), 24)
  expected = states_of(theirs, ids, output_hidden_states=True)
  stream = max(float(states.abs().max()) for states in expected.hidden_states[1:-1])
  assert stream > 2 * float(np.finfo(np.float16).max)
  expected = expected.last_hidden_state.numpy()

  params = convert(theirs, ours)
  states = jax.jit(ours.clone(dtype=jnp.bfloat16).apply)({'params': params}, ids)
  assert states.dtype == jnp.float32 and np.isfinite(states).all()
  # Seen: 0.043. Half a percent a product, over 8 layers with logits around ten.
  assert relative_l2(states, expected) < 0.07


def test_a_residual_stream_of_thousands_keeps_what_tells_tokens_apart_in_bfloat16():
  """All share a large offset, where bfloat16 has steps of 16."""
  theirs, ours = make('tiny')
  with torch.no_grad():
    theirs.shared.weight += 3000
  ids = captions((24, 24), 24)
  variables = {'params': convert(theirs, ours)}
  expected = states_of(theirs, ids).last_hidden_state.numpy()
  states = np.asarray(jax.jit(ours.clone(dtype=jnp.bfloat16).apply)(variables, ids))
  own = lambda x: x - x.mean((0, 1))  # noqa: E731
  assert relative_l2(own(states), own(expected)) < 0.05  # Seen: 0.012; transformers: 8.


def test_padding_changes_no_state_of_the_caption():
  theirs, ours = make('v1.1 tiny')
  encode = jax.jit(functools.partial(ours.apply, {'params': convert(theirs, ours)}))
  ids = captions((9,), 9)
  longer = np.pad(ids, [(0, 0), (0, 15)])
  alone, padded = encode(ids), encode(longer)
  assert relative_l2(padded[:, :9], alone) < 1e-5
  mask = longer != 0
  other = np.where(mask, longer, 7)
  np.testing.assert_array_equal(encode(other, mask)[:, :9], padded[:, :9])
  assert relative_l2(encode(other)[:, :9], alone) > 0.1  # Unmasked, it would.


def test_input_that_does_not_fit_is_refused():
  def build(length=8, **fields):
    module = t5.T5Encoder(20, 8, 16, 4, 1, 2, max_length=16, **fields)
    jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, length), np.int32))

  build(length=16)
  with pytest.raises(ValueError, match='17 tokens do not fit max_length=16'):
    build(length=17)
  with pytest.raises(ValueError, match="activation='gelu' is none of"):
    build(activation='gelu')
  with pytest.raises(ValueError, match='relative_position_buckets=30 must be a multiple of 4'):
    build(relative_position_buckets=30)
  with pytest.raises(ValueError, match='max_distance=8 more than a quarter'):
    build(max_distance=8)


def load(path, module):
  """As a run loads frozen weights; of T5 the config is not asked for anything."""
  return read.read_params('t5', path, None, module, abstract(module))


def assert_equal(params, expected):
  assert jax.tree.structure(params) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize('name', ['tiny', 'v1.1 tiny'])
def test_weights_come_back_by_name_to_the_bit(name):
  theirs, ours = make(name)
  stored = tensors.to_torch(convert(theirs, ours), t5_names.name_of)
  state = theirs.state_dict()
  del state['encoder.embed_tokens.weight']  # The same as shared.weight.
  assert stored.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(stored[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize('name', ['tiny', 'v1.1 tiny'])
@pytest.mark.parametrize(
  'kind, shards',
  [('T5EncoderModel', 1), ('T5ForConditionalGeneration', 1), ('T5ForConditionalGeneration', 4)],
)
def test_folders_of_the_encoder_and_of_all_of_t5_load(tmp_path, name, kind, shards):
  theirs, ours = make(name, kind=getattr(transformers, kind))
  theirs.save_pretrained(tmp_path, max_shard_size='40KB' if shards > 1 else '1GB')
  assert (len(list(tmp_path.glob('*.safetensors'))) > 1) == (shards > 1)
  assert_equal(load(tmp_path, ours), convert(theirs, ours))


def test_bfloat16_files_and_an_embedding_within_the_encoder_load(tmp_path):
  theirs, ours = make('v1.1 tiny')
  theirs.bfloat16().save_pretrained(tmp_path)
  expected = convert(theirs, ours)
  params = load(tmp_path, ours)
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
  assert_equal(params, expected)

  stored = tensors.to_torch(expected, t5_names.name_of)
  stored['encoder.embed_tokens.weight'] = stored.pop('shared.weight')
  safetensors.numpy.save_file(stored, tmp_path / 'within.safetensors')
  assert_equal(load(tmp_path / 'within.safetensors', ours), expected)


def test_one_error_names_all_tensors_that_do_not_fit(tmp_path):
  theirs, ours = make('v1.1 tiny')
  stored = tensors.to_torch(convert(theirs, ours), t5_names.name_of)
  del stored['encoder.final_layer_norm.weight']
  stored['shared.weight'] = stored['shared.weight'][:-1]
  stored['encoder.block.3.layer.0.layer_norm.weight'] = np.ones(32, np.float32)
  safetensors.numpy.save_file(stored, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match='t5 from ') as error:
    load(tmp_path, ours)
  message = str(error.value)
  assert '1 missing:\n  encoder.final_layer_norm.weight' in message
  assert '1 unexpected:\n  encoder.block.3.layer.0.layer_norm.weight' in message
  assert '1 misshapen:\n  shared.weight: (159, 32), model has (160, 32)' in message


@pytest.mark.parametrize(
  'field, value',
  [
    ('feed_forward_proj', 'gated-silu'),
    ('layer_norm_epsilon', 1e-5),
    ('relative_attention_max_distance', 64),
  ],
)
def test_a_config_that_computes_otherwise_is_refused(tmp_path, field, value):
  theirs, ours = make('v1.1 tiny')
  theirs.save_pretrained(tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | {field: value}))
  with pytest.raises(ValueError, match=f'{field}: {value}, the config makes'):
    load(tmp_path, ours)


LENGTH = 16
CAPTIONS = (
  'a red circle moves left',
  '',
  '  two   people\twalking\n',
  'the “Camera” pans, slowly: ２ ﬂat ① circles',
  'zzz 😀 the\u00a0horse',
  'red ' * 40,
)


@pytest.fixture(scope='module')
def sentencepiece_model():
  """A unigram model with T5's special tokens at T5's places."""
  words = 'a the two red green circle square moves left right people walking horse runs'.split()
  rng = np.random.default_rng(0)
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=(' '.join(rng.choice(words, 8)) for _ in range(300)),
    model_writer=model,
    model_type='unigram',
    vocab_size=60,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return model.getvalue()


@pytest.fixture(scope='module')
def folders(sentencepiece_model, tmp_path_factory):
  """Kind of tokenizer -> folder: as the releases have them."""
  root = tmp_path_factory.mktemp('t5_tokenizers')
  made = {kind: root / kind for kind in ('slow', 'fast', 'both')}
  made['slow'].mkdir()
  (made['slow'] / 'spiece.model').write_bytes(sentencepiece_model)
  transformers.T5Tokenizer.from_pretrained(made['slow'], legacy=True).save_pretrained(made['both'])
  fast = transformers.T5TokenizerFast.from_pretrained(made['slow'])
  fast.backend_tokenizer.save(str(made['both'] / 'tokenizer.json'))
  shutil.copytree(made['both'], made['fast'])
  (made['fast'] / 'spiece.model').unlink()
  return made


@pytest.mark.parametrize('kind', ['slow', 'fast', 'both'])
def test_ids_are_those_of_sentencepiece_ended_and_padded(folders, sentencepiece_model, kind):
  tokenize = tokenizers.t5(folders[kind], VOCABULARY, LENGTH, t5.PAD_ID)
  ids = tokenize(CAPTIONS)
  assert ids.dtype == np.int32 and ids.shape == (len(CAPTIONS), LENGTH)
  judge = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
  for row, caption in zip(ids, CAPTIONS, strict=True):
    words = judge.encode(caption)[: LENGTH - 1]
    assert row.tolist() == [*words, 1, *[0] * (LENGTH - 1 - len(words))], caption


def test_a_caption_gives_the_states_that_transformers_gives(folders):
  theirs, ours = make('v1.1 tiny')
  tokenize = tokenizers.t5(folders['fast'], VOCABULARY, LENGTH, t5.PAD_ID)
  states = jax.jit(ours.apply)({'params': convert(theirs, ours)}, tokenize(CAPTIONS))
  slow = transformers.T5Tokenizer.from_pretrained(folders['slow'], legacy=True)
  given = slow(
    list(CAPTIONS), padding='max_length', truncation=True, max_length=LENGTH, return_tensors='pt'
  )
  with torch.no_grad():
    expected = theirs(**given).last_hidden_state.numpy()
  assert relative_l2(states, expected) < BAR


def test_a_tokenizer_that_does_not_belong_is_refused(folders, tmp_path):
  with pytest.raises(ValueError, match='is no folder with tokenizer.json or spiece.model: give'):
    tokenizers.load_t5(tmp_path)
  num_ids = len(tokenizers.load_t5(folders['slow']))
  tokenizers.t5(folders['slow'], num_ids, LENGTH, t5.PAD_ID)
  with pytest.raises(ValueError, match=f'has {num_ids} ids but the encoder only vocab_size='):
    tokenizers.t5(folders['slow'], num_ids - 1, LENGTH, t5.PAD_ID)
  shutil.copy(folders['fast'] / 'tokenizer.json', tmp_path)
  (tmp_path / 'tokenizer_config.json').write_text('{"pad_token": "<unk>"}')
  with pytest.raises(ValueError, match='pads with id 2, the encoder masks id 0'):
    tokenizers.t5(tmp_path, VOCABULARY, LENGTH, t5.PAD_ID)


def test_a_copy_of_the_tokenizers_files_serves_as_well(folders, tmp_path):
  tokenizers.copy_files(tokenizers.T5_FILES, folders['slow'], tmp_path)
  original, copy = (tokenizers.load_t5(folder) for folder in (folders['slow'], tmp_path))
  assert copy(CAPTIONS[0]).input_ids == original(CAPTIONS[0]).input_ids
