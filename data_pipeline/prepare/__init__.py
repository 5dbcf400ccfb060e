"""What people download, as indexed webdataset shards: python -m data_pipeline.prepare KIND SRC DST."""
