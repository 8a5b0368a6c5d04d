"""Flax modules: the video U-Net, the VAE, the CLIP towers, T5's encoder; attention kernels."""
