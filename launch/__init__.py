"""Starts a run anywhere: python -m launch <target> --config=... --topology=... --workdir=..."""
