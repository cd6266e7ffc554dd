"""What the library tells the host's operators."""
