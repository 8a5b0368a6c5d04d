"""What the videos of a run are measured by, and how the figures are shown.

`measures` and `spectrum` need pixels alone, `shapes` the demo corpus, `frechet` and `clip_scores`
networks of the user's; `clip_scorer` embeds pictures and captions. `report` writes what
`python -m i2vgen_jax.evaluate` measured.
"""
