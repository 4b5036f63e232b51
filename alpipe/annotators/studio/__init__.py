"""Label Studio: a local server, a client, and the exchange of tasks and answers."""
