"""A model read for checking: by name, without its weights, calls written out."""
