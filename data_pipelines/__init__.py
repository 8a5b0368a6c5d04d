"""From public corpora to training batches: readers, ArrayRecord ingest, Grain streaming. Numpy only."""
