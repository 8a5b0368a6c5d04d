"""What a run stores: `trees` of arrays with `digests`, and its `run_config` (`old_configs`)."""
