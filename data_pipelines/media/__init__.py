"""From encoded pictures and videos to pixels, in child processes that may crash."""
