"""The parts of `train`: data, start, step, optimizer, compilation, validation, figures."""
