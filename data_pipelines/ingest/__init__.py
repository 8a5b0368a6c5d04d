"""From foreign layouts to corpora; every file is decoded once to check it."""
