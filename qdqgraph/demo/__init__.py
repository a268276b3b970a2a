"""A small trained network and its data, shipped so that the first run needs no download."""
