"""Statistics of activations and weights, and the ranges chosen from them."""
