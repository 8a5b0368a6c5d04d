"""Captions: several for each example, by a model or a function, drawn by weight."""
