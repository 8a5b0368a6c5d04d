"""How well what curate measures agrees with people, and with edits whose truth is known."""
