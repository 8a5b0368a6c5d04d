"""From public corpora to training batches: ingest, curate, index, stream. numpy, without JAX."""
