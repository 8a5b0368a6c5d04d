"""What the videos of a run are measured by, and how the figures are shown.

`measures` and `spectrum` need pixels alone, `shapes` the demo corpus, `features` networks of the
user's; `report` writes what `python -m i2vgen_jax.evaluate` found.
"""
