"""From an index to the batches of a run."""
