"""Frontends: each builds the neutral view over a real graph and writes its edits through."""
