"""Which rows of corpora are drawn, and how often: cells of rows, and their shares."""
