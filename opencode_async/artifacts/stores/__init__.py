"""Where artifacts' bytes are kept: a seam, one technology a file."""
