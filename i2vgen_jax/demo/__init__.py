"""What the demo runs need: a small VAE, a small tokenizer, and the scripts that made them."""
