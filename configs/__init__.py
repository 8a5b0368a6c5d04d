"""Run configurations: a `get_config(arg)` per file."""
