"""OpenCode's wire protocol as values: no IO, no clock, nothing asynchronous in here."""
