"""Where bytes lie: folders, S3, HTTP, a local cache; tar files in them."""
