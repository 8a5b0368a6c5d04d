"""Pages of HTML that commands leave: one frame and style for all, and small drawings."""
