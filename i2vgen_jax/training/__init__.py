"""The parts of `train`: data, start, objective, step, optimizer, validation, figures."""
