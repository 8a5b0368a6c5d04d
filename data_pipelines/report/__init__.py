"""One HTML page about a corpus: what it holds, what was dropped, what training draws, examples."""
