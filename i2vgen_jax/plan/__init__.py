"""What a config takes on a topology, before anyone books it: estimated in seconds, or compiled."""
