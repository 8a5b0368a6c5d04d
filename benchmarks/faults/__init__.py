"""Faults at random moments of small runs, and whether anything is lost by them: __main__.py."""
