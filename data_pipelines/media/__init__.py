"""Encoded pictures and videos to pixels."""
