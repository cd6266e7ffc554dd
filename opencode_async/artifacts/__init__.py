"""Files out of a turn and into it: what the agent wrote is data, and nothing more."""
