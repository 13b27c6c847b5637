"""The only place that touches HTTP: below a genuine openai client, above the sockets."""
