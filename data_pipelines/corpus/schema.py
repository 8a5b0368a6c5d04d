"""What an ingested corpus holds: one record per example, and one row of measurements beside it.

features.json, dataset_info.json           read back by tfds.builder_from_directory
corpus-<split>.array_record-IIIII          the records: key, caption, media, data (the file's bytes)
sidecar/<split>-IIIII.parquet              row i describes record i of the same shard
sidecar/<stage>/<split>-IIIII.parquet      the same, added later by curate or score
captions/<the records' name>               by caption: all captions of each record, for the stream
rows/<split>.parquet                       of all shards' sidecars, what a stream asks of every row
rejected/IIIII.jsonl                       what was not taken, and why
rejected/late-VVVVV.json                   keys of lines there that version V has taken
manifest.json                              counts, checksums; written last: it marks a whole corpus

A corpus grows by whole shards: those of a new version have numbers behind the old ones', whose
files never change; only rows/ and dataset_info.json are written again, and grow at their end. The
manifest's `versions` say of each its fingerprint (of all shards up to then), how many shards each
split has, how many parts of the input were read (`num_sources`, each with its file in rejected/)
and how many examples they list. In corpora that were ingested before that, the names end with
-of-NNNNN; they are read alike.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
  import tensorflow_datasets as tfds

VERSION = '1.2.0'
FILE_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}'  # For tfds.
OLDER_FILE_TEMPLATE = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
MAX_SHARDS = 99_999  # Of a split: beyond that tfds writes their numbers with another digit.
DATASET_NAME = 'corpus'
SPLITS = ('train', 'validation')
MEDIA = ('video', 'image')

# What the source says of an example, unverified; null where it says nothing.
ORIGIN = pa.schema(
  [
    ('url', pa.string()),
    ('license', pa.string()),
    ('nsfw', pa.string()),  # LAION: UNLIKELY, UNSURE or NSFW.
    ('similarity', pa.float32()),  # LAION: of caption and image, by CLIP.
    ('watermark', pa.float32()),  # LAION: probability.
    ('unsafe', pa.float32()),  # LAION: probability.
    ('link_hash', pa.string()),  # LAION: of link and caption.
    ('source_sha256', pa.string()),  # img2dataset: of the download, before it was re-encoded.
    ('source_md5', pa.string()),  # Likewise.
  ]
)

SIDECAR = pa.schema(
  [
    ('key', pa.string()),
    ('media', pa.string()),  # One of MEDIA.
    ('num_bytes', pa.int64()),
    ('num_frames', pa.int32()),  # As decoded, not as the header says.
    ('first_time', pa.float64()),  # Presentation time of the first frame, seconds.
    ('duration', pa.float64()),  # From the first frame to the last one, seconds.
    ('fps', pa.float64()),  # (num_frames - 1) / duration; 0 for images.
    ('is_variable_rate', pa.bool_()),  # The longest frame lasts 1.5 times the shortest, or more.
    ('longest_gap', pa.float64()),  # Between neighbouring frames, seconds; 0 for images.
    ('is_interlaced', pa.bool_()),  # Any frame; they are deinterlaced when decoded.
    ('hdr', pa.string()),  # 'pq' or 'hlg', which are tone-mapped when decoded; else ''.
    ('is_truncated', pa.bool_()),  # Damaged further on; the columns above are of what precedes it.
    ('height', pa.int32()),  # As displayed: after rotation and with square pixels.
    ('width', pa.int32()),
    ('sha256', pa.string()),  # Of the file.
    ('md5', pa.string()),  # Of the file; older corpora lack it.
    *ORIGIN,
  ]
)

# Where the content of a letterboxed or pillarboxed video is in its frames, as shares of them.
CONTENT = ('content_top', 'content_left', 'content_height', 'content_width')

# Fingerprints of frames (curate/prints.py), among what `curate` adds.
PRINTS = ('hashes', 'part_hashes', 'points')

# What `curate` knows of a single shot without a hole; null is what is not known.
SPAN = (
  ('span_start', pa.float64()),  # On the file's own clock, seconds.
  ('span_end', pa.float64()),  # Presentation time of its last frame.
  ('span_gap', pa.float64()),  # Longest gap between its frames, seconds.
  ('motion', pa.float32()),  # Mean length of the optical flow, frame diagonals per second.
  ('camera_motion', pa.float32()),  # The part of it that a homography explains.
  ('object_motion', pa.float32()),  # Mean length of what the flow differs from the homography's.
  # What the camera does to the frame's centre: net shift in diagonals per second, net growth in log
  # per second (positive: nearer), net turn in radians per second, and how unsteady the shift.
  ('pan', pa.float32()),
  ('zoom', pa.float32()),
  ('roll', pa.float32()),
  ('shake', pa.float32()),  # Diagonals per second.
  ('border_area', pa.float32()),  # Share of the frame that plain borders take.
  *((name, pa.float32()) for name in CONTENT),  # Null is the whole frame.
  ('text_area', pa.float32()),  # Share of the frame; by --text or the user's hook.
  # By --text: lines that are read, of the frame that has most; the reader's mean certainty.
  ('text', pa.string()),
  ('text_confidence', pa.float32()),
  # By --faces and --people: most in a frame, and the largest share of a frame that they take.
  ('faces', pa.int32()),
  ('face_area', pa.float32()),
  ('people', pa.int32()),
  ('people_area', pa.float32()),
)
_DECISION = (
  ('keep', pa.bool_()),
  ('reject', pa.list_(pa.string())),  # The rules against it, of curate.RULES; empty if kept.
)

# What `curate` adds. The columns of SPAN are those of the longest span that is kept, or else of the
# longest; `index` makes a row of each of `spans`, with what that says in their place.
CURATE = pa.schema(
  [
    ('key', pa.string()),
    *_DECISION,  # Kept is what has a span that is.
    ('flags', pa.list_(pa.string())),  # What is worth knowing, and no reason to drop it.
    *SPAN,
    ('num_shots', pa.int32()),
    ('cuts', pa.list_(pa.float64())),  # Presentation times of the frames that begin a shot.
    # In the order of time; null for an image and what could not be decoded.
    ('spans', pa.list_(pa.struct([('span_id', pa.int32()), *_DECISION, *SPAN]))),
    ('watermark_score', pa.float32()),  # By the user's hook, else LAION's probability.
    # Fingerprints (curate/prints.py) of an image, or of a video at 10, 50 and 90 %: 0.5 or 1.1 KB.
    ('hashes', pa.list_(pa.uint64())),  # Of each frame; 0 of a plain one.
    ('part_hashes', pa.list_(pa.uint64())),  # Of parts of the middle frame.
    ('points', pa.list_(pa.binary())),  # Of each frame: patches and where they lie, 10 bytes each.
    ('dup_group', pa.int64()),  # Equal for copies; row of the first one, over the whole corpus.
    ('caption_length', pa.int32()),  # Characters.
  ]
)

# What `score` adds; null is what could not be decoded, or has no head.
SCORE = pa.schema(
  [
    ('key', pa.string()),
    ('aesthetic', pa.float32()),  # Mean of three frames.
    ('clip_similarity', pa.float32()),  # Cosine of caption and picture, mean of three frames.
    ('nsfw_score', pa.float32()),  # Largest of three frames.
    # The main subject's share of the frame, by a saliency network: median of three frames.
    ('network_subject', pa.float32()),
    ('network_subject_method', pa.string()),  # Which one: the start of its file's sha256.
  ]
)
# What `score --shots` adds: where shots end by a network, for `curate`; null is what is not known.
SHOTS = pa.schema(
  [
    ('key', pa.string()),
    # Presentation times of the first frame that is not the shot before alone, and of the first of
    # the next one alone; a hard cut has one time twice.
    ('transitions', pa.list_(pa.struct([('start', pa.float64()), ('end', pa.float64())]))),
  ]
)
# What `caption` adds.
CAPTION = pa.schema(
  [
    ('key', pa.string()),
    ('caption', pa.string()),  # The one of most weight; '' if there is none.
    (
      'captions',
      pa.list_(
        pa.struct(
          [
            ('span_id', pa.int32()),  # The shot that it describes; null is the whole record.
            ('text', pa.string()),
            ('weight', pa.float32()),
            ('source', pa.string()),
          ]
        )
      ),
    ),
    ('language', pa.string()),  # Of `caption`, ISO 639-1, as langid guesses it.
    ('num_words', pa.int32()),  # Of `caption`.
  ]
)
STAGES = {'curate': CURATE, 'score': SCORE, 'shots': SHOTS, 'caption': CAPTION}


def command(stage: str) -> str:
  """By which people call what writes a stage."""
  return 'score --shots' if stage == 'shots' else stage


def features() -> 'tfds.features.FeaturesDict':
  """The record as tfds features; `data` is the encoded media file, untouched."""
  import tensorflow_datasets as tfds  # Half a second: not for those who only list a corpus.

  return tfds.features.FeaturesDict(
    {
      'key': tfds.features.Text(),
      'caption': tfds.features.Text(),
      'media': tfds.features.Text(),
      'data': tfds.features.Tensor(shape=(), dtype=np.object_),
    }
  )


def caption_features() -> 'tfds.features.FeaturesDict':
  """The record of captions/: `captions` is JSON, a list of [span_id, text, weight]."""
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict({'key': tfds.features.Text(), 'captions': tfds.features.Text()})


def shard_names(split: str, index: int) -> tuple[str, str]:
  """File names, relative to the corpus, of a shard's records and of its sidecar.

  Args:
    split: 'train' or 'validation'.
    index: of the shard in its split.
  """
  return f'{DATASET_NAME}-{split}.array_record-{index:05d}', f'sidecar/{split}-{index:05d}.parquet'


def stage_sidecar(stage: str, sidecar: str) -> str:
  """The sidecar that a stage adds beside one of ingest's, relative to the corpus."""
  return sidecar.replace('sidecar/', f'sidecar/{stage}/')
