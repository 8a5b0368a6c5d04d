"""Linen modules: the 3D UNet, its conditioners, the VAE and the CLIP towers."""
