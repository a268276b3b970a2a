"""Whatever a user hands over, as a stream of checked samples."""
