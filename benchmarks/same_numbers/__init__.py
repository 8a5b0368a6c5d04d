"""Does a change of structure change a number? Two trees, the same commands, compared to the bit."""
