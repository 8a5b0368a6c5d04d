"""Foreign layouts into corpora, with every file checked."""
