"""The batches of a run, a function of the step: from media, or from a cache."""
