"""The steps of a round, each a function over a project that may be killed and run again."""
