"""The line of a report: short, and with what is left, off a terminal too."""

import io
import logging

from absl import logging as absl_logging

from i2vgen_jax.process import cli
from i2vgen_jax.training import progress

FIGURES = {
  'loss': 0.80511, 'loss/images': 0.9, 'loss/videos': 0.75, 'loss/timesteps_0-250': 0.4,
  'grad_norm': 1.25, 'learning_rate': 2e-5, 'num_skipped_steps': 0, 'bucket': 'images',
}  # fmt: skip


def test_a_line_has_the_figures_by_which_a_run_is_judged():
  text = 'loss 0.8051 (images 0.9, videos 0.75), grad_norm 1.25, lr 2e-05'
  assert progress.figures(FIGURES) == text
  alone = {name: value for name, value in FIGURES.items() if name != 'loss/images'}
  assert progress.figures(alone | {'num_skipped_steps': 2}) == (
    'loss 0.8051, grad_norm 1.25, lr 2e-05, 2 skipped'
  )
  assert progress.figures({'num_skipped_steps': 1}) == '1 skipped'  # No step was finite.


def test_what_is_left_is_told_by_the_last_reports_without_compilation(monkeypatch):
  now, said = [0.0], []
  monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(progress.sys, 'stderr', io.StringIO())
  monkeypatch.setattr(progress.logging, 'info', lambda text, *values: said.append(text % values))
  shown = progress.Progress(100, 1000)
  now[0] = 5000.0  # Compiling.
  shown.pause()
  now[0] += 20
  assert shown.report(110, FIGURES) == 0.5
  assert said[-1].startswith('step 110/1000, loss 0.8051')
  assert '0.5 steps/s, 30 min left' in said[-1]
  for step in range(120, 200, 10):  # Ten times as fast.
    now[0] += 2
    shown.report(step, {})
  assert '5 steps/s, 3 min left' in said[-1]  # 810 steps.


def test_a_logged_line_begins_with_the_time_and_names_what_is_worse():
  def line(level):
    place = ('a.b', level, '/x.py', 1)
    return cli._Line().format(logging.LogRecord(*place, 'step %d', (7,), None))

  assert line(logging.INFO)[14:] == ' step 7' and line(logging.WARNING)[14:] == ' warning: step 7'
  cli.log_to_stderr()
  assert isinstance(absl_logging.get_absl_handler().python_handler.formatter, cli._Line)
