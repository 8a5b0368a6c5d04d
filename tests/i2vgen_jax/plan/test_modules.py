"""What a compiled program takes is summed by module of the model, beside the module's floor."""

import jax
import jax.numpy as jnp
import pytest

from i2vgen_jax.plan import chips, compiled, hlo, modules
from tests.i2vgen_jax.plan import test_plan

V5P = chips.DEVICES['v5p']
UP = 'jit(step)/transpose(jvp(UNet3D))/up_blocks_1/up_blocks_1._layer'
PATHS = {
  f'{UP}/up_blocks_1._attend/attentions_0/transformer_blocks_0/attn1/shard_map/dot_general': (
    'up_1/attention/pixels'
  ),
  f'{UP}/up_blocks_1._attend/attentions_2/transformer_blocks_0/attn2/to_k/dot_general': (
    'up_1/attention/context'
  ),
  f'{UP}/up_blocks_1._attend/attentions_0/transformer_blocks_0/ff/net_0_proj/dot_general': (
    'up_1/attention/feed_forward'
  ),
  f'{UP}/up_blocks_1._attend/attentions_0/proj_in/dot_general': 'up_1/attention/rest',
  f'{UP}/up_blocks_1._attend/temp_attentions_0/transformer_blocks_0/attn2/x': (
    'up_1/frames/attention'
  ),
  f'{UP}/up_blocks_1._resnet/resnets_0/conv1/conv_general_dilated': 'up_1/resnet/pixels',
  f'{UP}/up_blocks_1._resnet/resnets_0/temp_conv/conv2_3/conv': 'up_1/resnet/frames',
  'jit(step)/jvp(UNet3D)/up_blocks_1/upsamplers_0/conv/conv_general_dilated': 'up_1/resampling',
  'jit(step)/jvp(UNet3D)/down_blocks_0/rematted_computation/resnets_1/norm1/mul': (
    'down_0/resnet/pixels'
  ),
  'jit(step)/jvp(UNet3D)/mid_block/mid_block._resnet/resnets_1/conv1/add': 'mid/resnet/pixels',
  'jit(step)/jvp(UNet3D)/transformer_in/transformer_blocks_0/ff/net_2/add': (
    'transformer_in/feed_forward'
  ),
  'jit(step)/jvp(UNet3D)/UNet3D._embed/image_latent_tokens/dot_general': 'embed',
  'jit(step)/jvp(UNet3D)/conv_in/conv_general_dilated': 'conv_in',
  'jit(step)/AutoencoderKL.encode/encoder/down_blocks_0/resnets_0/conv1/add': (
    'encoders/AutoencoderKL'
  ),
  'jit(step)/CLIPVision/encoder/layers_3/mlp/dot_general': 'encoders/CLIPVision',
  'jit(step)/cond/branch_1_fun/mul': 'loss and update',
  '': 'of no module',
  'jit(backward)/transpose(jvp(SpatialTransformer))/transformer_blocks_0/ff/dot_general': (
    'attention/feed_forward'
  ),
}
COLUMNS = """HloModule m

%fused (a: bf16[64,32]) -> bf16[64,128] {
  %a.1 = bf16[64,32]{1,0} parameter(0)
  %b.1 = bf16[32,128]{1,0} parameter(1)
  %mul = bf16[64,32]{1,0} multiply(%a.1, %a.1)
  ROOT %conv.1 = bf16[64,128]{1,0} convolution(%mul, %b.1), dim_labels=bf_io->bf
}

ENTRY %main (a: bf16[64,32]) -> bf16[64,128] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %fusion = bf16[64,128]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/jvp(UNet3D)/mid_block/resnets_0/conv1/dot"}, backend_config={"estimated_cycles":"1750"}
}
"""  # noqa: E501


@pytest.mark.parametrize(('path', 'expected'), PATHS.items())
def test_an_op_belongs_to_the_module_that_it_was_made_for(path, expected):
  assert modules.module_of(path) == expected


def test_a_module_is_the_sum_of_its_ops_beside_its_products_and_bytes():
  program = hlo.parse(COLUMNS)
  (row,) = modules.rows(
    program, V5P, lambda op: op.cycles / 1.75e9, lambda op: None, {'fusion': 2e-6}
  )
  assert row['module'] == 'mid/resnet/pixels'
  assert row['ms'] == pytest.approx(1e-3 + 2e-3)
  assert row['exchanges_ms'] == pytest.approx(2e-3)
  assert row['flops_ms'] == pytest.approx(2 * 64 * 32 * 128 / V5P.peak * 1e3)
  # `b` lies in vector memory already.
  assert row['bytes_ms'] == pytest.approx((64 * 32 + 64 * 128) * 2 / V5P.hbm_bytes_per_sec * 1e3)
  assert row['floor_ms'] == row['bytes_ms'] > row['flops_ms']


def test_what_is_fetched_to_vector_memory_ahead_is_read_once():
  program = hlo.parse("""HloModule m

ENTRY %main (p: bf16[64]) -> bf16[64] {
  %p = bf16[64]{0} parameter(0)
  %start = (bf16[64]{0:S(1)}, bf16[64]{0}, u32[]) copy-start(%p)
  %done = bf16[64]{0:S(1)} copy-done(%start)
  ROOT %fusion = bf16[64]{0} fusion(%done), kind=kLoop
}
""")
  computations, entry = program
  types = {op.name: op.type for op in computations[entry]}
  moved = {op.name: modules.moved_bytes(op, types) for op in computations[entry]}
  assert moved == dict(p=0, start=128, done=0, fusion=128)


def test_the_module_farthest_above_its_floor_comes_first_and_the_sum_is_the_step():
  found = modules.rows(
    test_plan.program(),
    V5P,
    lambda op: op.cycles / V5P.clock,
    lambda op: compiled.kernel_cost(op) if compiled.is_kernel(op) else None,
    {'all-reduce.2': 1e-3},
  )
  above = [row['ms'] - row['floor_ms'] for row in found]
  assert above == sorted(above, reverse=True)
  total = (1000 + 3 * 50) / V5P.clock + 1e-3
  assert sum(row['ms'] for row in found) == pytest.approx(total * 1e3)


@pytest.mark.parametrize(
  ('lhs', 'rhs', 'options', 'products'),
  [
    # 3x3 on 4x4: of 12 places in each dim, two lie outside.
    ((2, 4, 4, 8), (3, 3, 8, 16), dict(padding='SAME'), 2 * 10 * 10 * 8 * 16),
    ((2, 4, 4, 8), (3, 3, 8, 16), dict(padding='VALID'), 2 * 2 * 2 * 9 * 8 * 16),
    # Zeros between pixels, as the gradient of a stride has them, are no work.
    (
      (1, 4, 4, 8),
      (2, 2, 8, 8),
      dict(padding=((0, 0), (0, 0)), lhs_dilation=(2, 2)),
      (6 * 2 // 2) ** 2 * 8 * 8,
    ),
    ((2, 4, 4, 8), (1, 1, 2, 16), dict(padding='SAME', feature_group_count=4), 2 * 16 * 2 * 16),
  ],
)
def test_products_of_a_convolution_leave_out_what_is_zero(lhs, rhs, options, products):
  def convolve(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), dimension_numbers=('NHWC', 'HWIO', 'NHWC'), **options
    )

  shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (lhs, rhs)]
  computations, entry = hlo.parse(jax.jit(convolve).lower(*shapes).compile().as_text())
  types = {op.name: op.type for ops in computations.values() for op in ops}
  found = [modules.flops(op, computations, types) for op in computations[entry]]
  assert sum(found) == 2 * products
