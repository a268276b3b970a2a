"""Passes as values, the context they run in, and the pipelines made of them."""
