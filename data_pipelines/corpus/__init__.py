"""Corpora on disk or in buckets: shards of records, their manifest and their sidecars."""
