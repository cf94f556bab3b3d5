"""What of a DSR deployment is broken, and what to do about it: evidence is gathered at the edge, and judged purely."""
