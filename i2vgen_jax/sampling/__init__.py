"""From pictures and captions to videos, by one stage or two."""
