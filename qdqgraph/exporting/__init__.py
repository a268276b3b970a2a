"""From an export script to a quantized file: `qg.export`, or a block around the script."""
