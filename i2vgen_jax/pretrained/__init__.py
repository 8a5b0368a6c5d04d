"""Weights in PyTorch names: tables and strict conversion, without PyTorch."""
