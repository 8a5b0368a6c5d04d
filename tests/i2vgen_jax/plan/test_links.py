"""Collectives are timed by the links of the torus dims that their devices cover; each value here is
worked out by hand."""

import itertools

import pytest

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology
from i2vgen_jax.plan import chips, links

V5P, V5E = chips.DEVICES['v5p'], chips.DEVICES['v5e']
LINK = 100e9  # v5p: 1200 GB/s both ways over 6 links.


def network(device, *grid, slices=1):
  """Devices numbered row-major, as they lie in the grid."""
  places = tuple(itertools.product(*map(range, grid)))
  return links.Network(device, places * slices, grid, slices)


def rate_part(net, kind, groups, num_bytes=4e9):
  """Seconds less what one byte takes: hops are in both."""
  return net.secs(kind, ('fsdp',), groups, num_bytes) - net.secs(kind, ('fsdp',), groups, 0)


def test_a_link_has_its_share_of_what_a_chip_has():
  assert V5P.link_bytes_per_sec == LINK
  assert V5E.link_bytes_per_sec == 50e9  # 400 GB/s both ways over 4.


def test_whole_cubes_of_v5p_and_rows_of_sixteen_v5e_have_joined_ends():
  assert V5P.wraps((4, 4, 4)) == (True,) * 3
  assert V5P.wraps((2, 2, 4)) == (False,) * 3
  assert V5E.wraps((16, 16, 1)) == (True, True, False)
  assert V5E.wraps((8, 16, 1)) == (False, True, False)


def test_one_ring_of_four_has_two_links():
  net = network(V5P, 4, 4, 4)
  group = ((0, 1, 2, 3),)
  # Three quarters of 4 GB come in over two links.
  assert rate_part(net, 'all-gather', group) == pytest.approx(3e9 / (2 * LINK))
  assert rate_part(net, 'reduce-scatter', group) == pytest.approx(3e9 / (2 * LINK))
  assert rate_part(net, 'all-reduce', group) == pytest.approx(2 * 3e9 / (2 * LINK))
  # Of an all-to-all, each device sends a quarter of its bytes one hop each way and one two hops: by
  # symmetry half of a device's bytes pass each link.
  assert rate_part(net, 'all-to-all', group) == pytest.approx(2e9 / LINK)
  assert net.secs('all-gather', ('fsdp',), group, 0) == pytest.approx(2 * chips.HOP_SECS)
  assert net.secs('all-reduce', ('fsdp',), group, 0) == pytest.approx(4 * chips.HOP_SECS)


def test_without_joined_ends_the_last_device_has_one_link():
  net = network(V5E, 4, 4, 1)
  row = tuple((4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3) for i in range(4))
  assert rate_part(net, 'all-gather', row) == pytest.approx(3e9 / 50e9)
  # Two devices send half of their bytes over the middle link to the two others.
  assert rate_part(net, 'all-to-all', row) == pytest.approx(2 * 2e9 / 50e9)
  assert net.secs('all-gather', ('fsdp',), row, 0) == pytest.approx(3 * chips.HOP_SECS)


def test_two_axes_add_up_their_links():
  cube = network(V5P, 4, 4, 4)
  plane = (tuple(range(16)),)
  assert rate_part(cube, 'all-gather', plane) == pytest.approx(4e9 * 15 / 16 / (4 * LINK))
  everything = (tuple(range(64)),)
  assert rate_part(cube, 'all-gather', everything) == pytest.approx(4e9 * 63 / 64 / (6 * LINK))
  grid = network(V5E, 4, 4, 1)  # A corner of it has two links.
  assert rate_part(grid, 'all-gather', plane) == pytest.approx(4e9 * 15 / 16 / (2 * 50e9))


def test_groups_that_lie_between_each_other_share_links():
  net = network(V5E, 1, 16, 1)
  # Of a ring of sixteen in four groups, each fourth device: all of the ring is theirs by turns.
  strided = tuple(tuple(range(i, 16, 4)) for i in range(4))
  assert rate_part(net, 'all-gather', strided) == pytest.approx(4 * 3e9 / (2 * 50e9))
  # Four in a row have no joined ends, though the ring has.
  parts = tuple(tuple(range(4 * i, 4 * i + 4)) for i in range(4))
  assert rate_part(net, 'all-gather', parts) == pytest.approx(3e9 / 50e9)
  # Two diagonals of a square are its whole box, which both cross.
  square = network(V5E, 2, 2, 1)
  assert rate_part(square, 'all-gather', ((0, 3), (1, 2))) == pytest.approx(2 * 2e9 / (2 * 50e9))


def test_a_permute_waits_for_its_busiest_link():
  ring, row = network(V5P, 4, 4, 4), network(V5E, 4, 1, 1)
  shift = tuple((i, (i + 1) % 4) for i in range(4))
  assert rate_part(ring, 'collective-permute', shift) == pytest.approx(4e9 / LINK)
  # Where ends are not joined, the last device's way back goes against all others: still once.
  assert rate_part(row, 'collective-permute', shift) == pytest.approx(4e9 / 50e9)
  assert row.secs('collective-permute', ('fsdp',), shift, 0) == pytest.approx(3 * chips.HOP_SECS)
  ahead = ((0, 2), (1, 3))  # Both pass the middle link.
  assert rate_part(row, 'collective-permute', ahead) == pytest.approx(2 * 4e9 / 50e9)


def test_two_slices_meet_over_the_data_centre_network():
  net = network(V5P, 2, 2, 1, slices=2)
  secs = net.secs('all-reduce', ('slice',), (), 6.25e9)
  # Half of it is scattered and half gathered: as many bytes as there are, at 50 Gbit/s.
  assert secs == pytest.approx(chips.DCN_SECS + 1.0)
  assert net.secs('all-gather', ('slice', 'data'), (), 6.25e9) == pytest.approx(
    chips.DCN_SECS + 0.5
  )


def test_devices_of_one_chip_need_no_link_of_the_torus():
  tpu7x = chips.DEVICES['tpu7x']
  net = links.Network(tpu7x, ((0, 0, 0), (0, 0, 0), (1, 0, 0), (1, 0, 0)), (2, 1, 1), 1)
  assert rate_part(net, 'all-gather', ((0, 1), (2, 3))) == pytest.approx(2e9 / (12 * 50e9))
  # Both devices of a chip need what comes over its link, which is 100 GB/s, once.
  assert rate_part(net, 'all-gather', ((0, 1, 2, 3),)) == pytest.approx(3e9 / 100e9)


@pytest.mark.parametrize(
  ('name', 'sizes', 'axis', 'expected'),
  [
    ('v5p-128', dict(data=16, fsdp=4, tensor=1), 'fsdp', [(4, True)]),
    ('v5p-128', dict(data=16, fsdp=4, tensor=1), 'data', [(4, True), (4, True)]),
    ('v5e-16', dict(data=4, fsdp=4, tensor=1), 'fsdp', [(4, False)]),
    ('v5p-8', dict(data=1, fsdp=4, tensor=1), 'fsdp', [(2, False), (2, False)]),
    ('2xv5p-8', dict(slice=2, data=1, fsdp=4, tensor=1), 'fsdp', [(2, False), (2, False)]),
  ],
)
def test_described_meshes_lie_on_the_torus(name, sizes, axis, expected):
  """As libtpu describes them and `make_mesh` lays them out."""
  pytest.importorskip('libtpu')
  where = topology.parse(name)
  mesh = mesh_lib.make_mesh(sizes, chips.described(where))
  net = links.of_mesh(mesh, chips.device(where))
  spans = net.spans(links.along(mesh, axis))
  assert [(span.size, span.is_ring) for span in spans] == expected
  assert net.slices == where.slices
