"""Picture files of users."""

import os

import PIL.Image


def open_image(path: str | os.PathLike[str]) -> PIL.Image.Image:
  """A PIL image.

  Raises:
    ValueError: no such file, or not a picture.
  """
  try:
    image = PIL.Image.open(path)
    image.load()
  # Pillow's plugins raise what they like at broken files.
  except (OSError, SyntaxError, ValueError, EOFError, PIL.Image.DecompressionBombError) as error:
    raise ValueError(f'image {path} cannot be read: {error}.') from error
  return image
