"""Where a job's shards are worked on: processes of this machine, a Ray cluster, Apache Beam."""
