"""Engines that were built: dumps and logs read, scored, compared; the commands that build them."""
