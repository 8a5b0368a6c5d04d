"""The first minutes on the machines of a run: what they do, against what plans assume of them."""
