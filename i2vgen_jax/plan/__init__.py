"""What a config takes on a topology, before anyone books it: estimated, or compiled; and what a
start would find (`dry_run`)."""
