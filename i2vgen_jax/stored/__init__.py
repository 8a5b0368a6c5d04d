"""What a run stores: `trees` of arrays, their `digests`, and `old_configs`: what they may lack."""
