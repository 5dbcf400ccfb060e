"""One file per kind of data set that people download, and what several of them share."""
