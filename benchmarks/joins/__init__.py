"""How many joins of shots curate finds: films of known joins, and what a detector says of them."""
