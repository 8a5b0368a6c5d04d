"""From public corpora to training batches: read, ingest, stream. Numpy only."""
