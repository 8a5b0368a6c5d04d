"""What the demo runs need: a small VAE, its training script, a small tokenizer."""
