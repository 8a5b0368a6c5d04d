"""A run's weights in the forms that PyTorch reads: `torch_folder`, of which `torch_model` is the
code."""
