"""Buckets: the shapes a training step may have. One bucket per step, the same on all hosts.

I2VGen-XL trains with varying numbers of frames and frame rates; VGen gives each rank its own. One
program on many devices has one shape per step, so the mixture is over steps, by weight.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.corpus import aspects, schema

SIZE_MULTIPLE = 8  # The VAE's downsampling.
FPS_TOLERANCE = 0.01  # 23.976 counts as 24.
MAX_GAP = 1.5  # Of the bucket's interval, between neighbouring frames of a video that fills it.
HOLE = 3.0  # Mean intervals between neighbouring frames: some are missing in between.
IMAGE_FPS = 1.0  # What batches of images are conditioned on.


@dataclasses.dataclass(frozen=True)
class Bucket:
  """Shape and source of one kind of step.

  Attributes:
    name: unique among the buckets of a run.
    frames, height, width: of the video, in pixels.
    fps: frames per second at which the source is sampled, and which its batches are conditioned
      on, also those of videos of one frame; IMAGE_FPS for images.
    batch_size: examples of a step on all hosts together.
    weight: share of the steps, relative to the other buckets'.
    media: 'video', or 'image': a video of one frame.
    framing: which sources it takes by their size, and whose aspect it is; None takes all.
  """

  name: str
  frames: int
  height: int
  width: int
  fps: float
  batch_size: int
  weight: float = 1.0
  media: str = 'video'
  framing: aspects.Framing | None = None

  def __post_init__(self):
    problems = []
    if self.media not in schema.MEDIA:
      problems.append(f'media={self.media!r} should be one of {schema.MEDIA}')
    if self.frames < 1 or (self.media == 'image' and self.frames != 1):
      problems.append(f'frames={self.frames} should be >= 1, and 1 for images')
    if self.media == 'image' and self.fps != IMAGE_FPS:
      problems.append(f'fps={self.fps} should be {IMAGE_FPS:g} for images')
    for side in ('height', 'width'):
      value = getattr(self, side)
      if value < SIZE_MULTIPLE or value % SIZE_MULTIPLE:
        problems.append(f'{side}={value} should be a multiple of {SIZE_MULTIPLE}')
    if self.batch_size < 1:
      problems.append(f'batch_size={self.batch_size} should be >= 1')
    for field in ('fps', 'weight'):
      if getattr(self, field) <= 0:
        problems.append(
          f'{field}={getattr(self, field)} should be > 0; leave the bucket out to drop it'
        )
    if problems:
      raise ValueError(f'bucket {self.name!r}: {"; ".join(problems)}.')

  @property
  def span(self) -> float:
    """Seconds from the first frame to the last one."""
    return (self.frames - 1) / self.fps

  @property
  def group(self) -> str:
    """Name of the config's bucket that this is, or is an aspect of."""
    return self.framing.group if self.framing else self.name

  @property
  def size(self) -> aspects.Size:
    """(height, width)."""
    return self.height, self.width

  def described(self) -> tuple:
    """All that it is, for JSON; without a framing as before there were any."""
    return dataclasses.astuple(self)[: None if self.framing else -1]


def from_config(config: Mapping) -> list[Bucket]:
  """Those of a run's config, in its order, each aspect of data.aspects a bucket of its own.

  Raises:
    ValueError: a bucket, an aspect or a bound is invalid.
  """
  data = config['data']
  multiple = aspects.MULTIPLE
  if config.get('refine', {}).get('levels', 0):
    multiple = aspects.REFINED_MULTIPLE
  sizes = aspects.check(data.get('aspects', ()), multiple)
  bounds = dict(max_crop=data.get('max_crop', 0.0), max_enlarge=data.get('max_enlarge', 0.0))
  found = []
  for name, fields in data['buckets'].items():
    _check_fields(name, fields)
    bucket = Bucket(name=name, **fields)
    aspects.check_pixels([bucket.size, *sizes], f'data.aspects, bucket {name!r}')
    found += with_aspects(bucket, sizes, **bounds)
  return found


def _check_fields(name: str, fields: Mapping) -> None:
  """Raises ValueError for a bucket that lacks a field, or has another one."""
  own = [field for field in dataclasses.fields(Bucket) if field.name not in ('name', 'framing')]
  needed = {field.name for field in own if field.default is dataclasses.MISSING}
  missing, unknown = needed - set(fields), set(fields) - {field.name for field in own}
  if missing or unknown:
    raise ValueError(
      f'bucket {name!r} lacks {sorted(missing) or "nothing"} and has the unknown fields '
      f'{sorted(unknown)}; its fields are {", ".join(field.name for field in own)}.'
    )


def with_aspects(
  bucket: Bucket, sizes: Sequence[aspects.Size], max_crop: float = 0.0, max_enlarge: float = 0.0
) -> list[Bucket]:
  """The bucket once for each size; its weight is shared alike until a corpus tells the examples.

  Args:
    bucket: of a config.
    sizes: (height, width) of its aspects; none leaves the bucket as it is.
    max_crop: see aspects.Framing; 0 is MAX_CROP with aspects, and no bound without.
    max_enlarge: likewise.
  """
  if sizes:
    max_crop, max_enlarge = max_crop or aspects.MAX_CROP, max_enlarge or aspects.MAX_ENLARGE
  elif not (max_crop or max_enlarge):
    return [bucket]
  bounds = (max_crop or None, max_enlarge or None)
  if not sizes:
    framing = aspects.Framing(bucket.name, (bucket.size,), *bounds)
    return [dataclasses.replace(bucket, framing=framing)]
  framing = aspects.Framing(bucket.name, tuple(sizes), *bounds)
  return [
    dataclasses.replace(
      bucket,
      name=f'{bucket.name}_{aspects.name_of(size)}',
      height=size[0],
      width=size[1],
      weight=bucket.weight / len(sizes),
      framing=framing,
    )
    for size in sizes
  ]


def fitting(bucket: Bucket, height: int, width: int) -> Bucket:
  """The bucket at the aspect of its group that crops a picture least; itself without aspects.

  Args:
    bucket: any aspect of a group.
    height: of the picture, pixels.
    width: likewise.
  """
  if bucket.framing is None or bucket.group == bucket.name:
    return bucket
  size = aspects.nearest(bucket.framing.sizes, height, width)
  name = f'{bucket.group}_{aspects.name_of(size)}'
  return dataclasses.replace(bucket, name=name, height=size[0], width=size[1])


def groups(buckets: Sequence[Bucket]) -> dict[str, list[Bucket]]:
  """The buckets by the config's bucket that they are aspects of, in their order."""
  found: dict[str, list[Bucket]] = {}
  for bucket in buckets:
    found.setdefault(bucket.group, []).append(bucket)
  return found


def fills(
  bucket: Bucket, duration: float | np.ndarray, fps: float | np.ndarray
) -> bool | np.ndarray:
  """Whether videos fill the bucket; elementwise.

  Args:
    bucket: of videos.
    duration: seconds, of one video or of each.
    fps: their frames per second, by dense_rate, of the same shape.
  """
  return (duration >= bucket.span - 1e-3) & (fps >= bucket.fps * (1 - FPS_TOLERANCE))


def dense_rate(fps: np.ndarray, longest_gap: np.ndarray) -> np.ndarray:
  """Frames per second that videos have throughout: `fps`, or less where frames are far apart.

  Args:
    fps: (N,), of whole videos.
    longest_gap: (N,), seconds between neighbouring frames; 0 or NaN where it is not known.
  """
  with np.errstate(divide='ignore'):
    return np.fmin(fps, MAX_GAP / np.nan_to_num(longest_gap))


def nothing_fits(bucket: Bucket, duration: np.ndarray, fps: np.ndarray) -> str:
  """Why none of the bucket's media fills it, and what would.

  Args:
    bucket: that stays empty.
    duration: (N,), seconds, of the media of its kind.
    fps: (N,), their frames per second.
  """
  if not len(duration):
    return f'bucket {bucket.name!r} needs {bucket.media}s, and the corpus has none.'
  enough = fps >= bucket.fps * (1 - FPS_TOLERANCE)
  frames = int(np.floor((duration[enough].max() + 1e-3) * bucket.fps)) + 1 if enough.any() else 0
  advice = f'frames <= {frames} at fps={bucket.fps:g}' if frames else f'fps <= {fps.max():.4g}'
  return (
    f'bucket {bucket.name!r} ({bucket.frames} frames at {bucket.fps:g} fps, {bucket.span:.2f} s) '
    f'fits none of {len(duration)} videos: {enough.sum()} have the fps, '
    f'{(duration >= bucket.span).sum()} are long enough (longest {duration.max():.2f} s, '
    f'up to {fps.max():.4g} fps). {advice} would fit.'
  )
