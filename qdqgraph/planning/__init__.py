"""The plan: which edges get a quantizer, which quantizers share one scale, and why."""
