"""What is measured of a corpus, and what is kept of it."""
