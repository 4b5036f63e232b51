"""The command line: thin, quick to start, one line an error."""
