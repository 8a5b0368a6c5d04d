"""Makes videos from pictures and captions, by one stage or two."""
