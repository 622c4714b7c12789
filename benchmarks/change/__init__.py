"""`ssmt-edge bench-compare`: what changed between two reports beyond noise."""
