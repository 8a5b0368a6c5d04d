"""The networks and samplers in PyTorch: what `export --format=torch` joins into one modeling.py.

`layers`, `conditioners`, `unet`, `vae`, `clip`, `t5`, `tokenizers`, `pictures`, `samplers`,
`model`: each imports only those before it, by `from ... import`. No two names are alike, so that
the files can stand in one.
"""
