"""The device mesh and the rules that place tensors on it."""
