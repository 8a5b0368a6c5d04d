"""What the report measures: the SQL of each measure, its unit, and what it is, in words."""

from typing import NamedTuple


class Measure(NamedTuple):
  """What a measure is.

  Attributes:
    title: without its unit.
    unit: of its values.
    column: of the sidecars, without which nobody has measured it.
    sql: its value; NULL where there is none.
    text: how it is measured, and what it does not tell.
  """

  title: str
  unit: str
  column: str
  sql: str
  text: str

  @property
  def name(self) -> str:
    """With its unit."""
    return self.title if self.unit == self.title else f'{self.title}, {self.unit}'


DIAGONALS = 'diagonals/s'
SHARE = 'share of the frame'
MEASURES = (
  Measure(
    'duration', 's', 'duration', "CASE media WHEN 'video' THEN duration END",
    'Of a video, from its first frame to its last, whatever its cuts.',
  ),
  Measure(
    'longest shot', 's', 'span_end', "CASE media WHEN 'video' THEN span_end - span_start END",
    'Of a video, the longest shot that curate keeps, or else the longest.',
  ),
  Measure(
    'frames per second', 'frames per second', 'fps', "CASE media WHEN 'video' THEN fps END",
    'As decoded, not as the header says.',
  ),
  Measure(
    'shorter side', 'pixels', 'height', 'least(height, width)',
    'As displayed: after rotation and with square pixels.',
  ),
  Measure(
    'aesthetic', 'score', 'aesthetic', 'aesthetic',
    'By the head that score was given, mean of three frames: higher is more pleasing.',
  ),
  Measure(
    'motion', DIAGONALS, 'motion', 'motion',
    'Mean length of the optical flow, in diagonals of the frame per second.',
  ),
  Measure(
    'camera motion', DIAGONALS, 'camera_motion', 'camera_motion',
    'The part of the motion that a homography of the whole frame explains.',
  ),
  Measure(
    'object motion', DIAGONALS, 'object_motion', 'object_motion',
    "Mean length of what the flow differs from the homography's.",
  ),
  Measure(
    'pan', DIAGONALS, 'pan', 'pan', "How fast the frame's centre shifts over the whole shot."
  ),
  Measure(
    'zoom', 'log/s', 'zoom', 'zoom',
    'How fast the picture grows, as a logarithm: 0.1 is 10 % nearer each second.',
  ),
  Measure(
    'shake', DIAGONALS, 'shake', 'shake', 'How unsteady the shift is, as of a hand.'
  ),
  Measure(
    'subject by a network', SHARE, 'network_subject', 'network_subject',
    "The main subject's share, by the saliency network that score was given.",
  ),
  Measure(
    'similarity of caption and picture', 'cosine', 'clip_similarity', 'clip_similarity',
    "Cosine of CLIP's embeddings, mean of three frames.",
  ),
  Measure(
    'NSFW score', 'score', 'nsfw_score', 'nsfw_score',
    'By the head that score was given, largest of three frames: higher is less safe.',
  ),
  Measure(
    'watermark score', 'probability', 'watermark_score', 'watermark_score',
    "By the hook that curate was given, or else LAION's own.",
  ),
  Measure(
    'text', SHARE, 'text_area', 'text_area',
    'What lines of text cover, of the frame that has most of three.',
  ),
  Measure(
    'plain border', SHARE, 'border_area', 'border_area',
    'What plain edges cover; a plain backdrop is a border too.',
  ),
  Measure(
    'caption', 'characters', 'caption_length', 'caption_length',
    'CLIP reads 77 tokens, about 300 characters.',
  ),
)  # fmt: skip
# Other words of the page.
WORDS = {
  'corpus': 'What ingest wrote: the media of a source that can be decoded, with their captions.',
  'shot': 'What a camera shows without a cut, a dissolve or missing frames: a span of curate.',
  'kept': 'What curate lets through: at least one shot, or the image, breaks none of its rules.',
  'held out': 'The validation split: training never draws it, nor a copy of it.',
  'cell': 'Rows of an index, each a shot or an image, that are alike in media and scores.',
  'draw': 'One example of a training batch. Within a cell every row is drawn equally often.',
  'epoch': 'A cell is drawn through once.',
  'bucket': 'Frames, rate and size that the examples of one batch have.',
  'copies': 'Examples that look the same, also cropped, mirrored, marked, smaller or trimmed.',
}
