"""Image bytes to pixels and views: decoding, crops, colour, and the batches made of them."""
