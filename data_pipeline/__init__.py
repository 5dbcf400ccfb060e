"""From shards to typed batches. A leaf of the import graph: imports nothing else of ours."""
