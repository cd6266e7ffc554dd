"""What ``opencode-async doctor`` looks at, a module for each part of a deployment."""
