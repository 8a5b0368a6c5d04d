"""What a config takes on a topology, before anyone books it: estimated in a minute or two, or compiled."""
