"""What people download, as indexed webdataset shards: pineco data prepare KIND SRC DST."""
