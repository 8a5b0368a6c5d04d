"""What a run stores: `trees` of arrays, their `digests`, and `old_configs`, fields that they lack."""
