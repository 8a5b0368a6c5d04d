"""What a config takes on a topology, before anyone books it: estimated, or compiled."""
