"""The command line: `qdqgraph quantize | rewrite | plan | passes | demo`."""
