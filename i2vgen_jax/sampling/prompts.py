"""What a user should know of a prompt before anything is sampled from it."""

from collections.abc import Iterator, Mapping

from absl import logging

from i2vgen_jax.conditions import base


def warn(signals: Mapping[str, base.Signal], prompts: Mapping[str, str | None]) -> None:
  """Logs a warning for each prompt that is empty, or of which words are cut off; as `notes`."""
  for note in notes(signals, prompts):
    logging.warning('%s', note)


def notes(signals: Mapping[str, base.Signal], prompts: Mapping[str, str | None]) -> Iterator[str]:
  """A line for each prompt that is empty, or of which words are cut off.

  Args:
    signals: of the model.
    prompts: by what they are called; None was not given. Of a negative prompt, empty is usual.
  """
  readers = [signal for signal in signals.values() if signal.reads_caption]
  for name, prompt in prompts.items():
    if prompt is None or not readers:
      continue
    if not prompt.strip() and 'negative' not in name:
      yield f'{name} is empty: the model gets no text to follow.'
    for signal in readers:
      if cut := signal.unread(prompt):
        who = 'the model' if len(readers) == 1 else f'the condition {signal.name}'
        yield f'{name} is cut: {who} {cut}'
