"""The command line: a file per group of commands, no logic of its own."""
