"""What the videos of a run are measured by, and how the figures are shown.

`measures` and `spectrum` need pixels alone, `frechet` and `clip_scores` networks of the user's;
`clip_scorer` embeds pictures and captions. `captioned` chooses what knows the captions of the demo
corpus: `shapes`, or `scenes`, which sees by `scene_things`, `scene_camera` and `scene_motion`.
`report` writes what `python -m i2vgen_jax.evaluate` measured.
"""
