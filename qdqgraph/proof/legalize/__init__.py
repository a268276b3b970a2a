"""A file of another tool made legal, with the loss told."""
