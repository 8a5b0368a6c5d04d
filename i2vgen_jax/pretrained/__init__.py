"""The frozen networks, and weights in PyTorch names: tables and strict conversion, without PyTorch."""
