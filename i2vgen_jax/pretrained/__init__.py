"""The frozen networks, and weights in PyTorch names: strict conversion, without PyTorch."""
