"""Which rows are drawn, and how often: balanced cells."""
