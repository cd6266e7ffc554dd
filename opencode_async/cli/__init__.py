"""The command ``opencode-async``: is all well, what are the turns doing, stop one."""
