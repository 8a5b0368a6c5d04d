"""The recorded numbers of other code: where they are, and the table of the released tensors."""

import csv
import pathlib

FOLDER = pathlib.Path(__file__).parent


def released_tensors() -> list[dict[str, str]]:
  """A row for each of the 1,511 tensors of I2VGen-XL's U-Net, in the order of VGen's state_dict.

  Returns:
    dicts of vgen_key, vgen_shape, diffusers_key, diffusers_shape (shapes as str(tuple), torch's
    layout) and op, what diffusers' conversion script does to the tensor.
  """
  with (FOLDER / 'vgen_to_diffusers_keys.tsv').open() as file:
    return list(csv.DictReader(file, delimiter='\t'))
