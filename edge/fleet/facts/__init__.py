"""Facts of a host: each a command and how to read its answer. The command itself never fails for what it may find."""
