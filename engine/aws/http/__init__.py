"""HTTP to AWS on sockets that a loop polls: nothing here blocks but `connector`, which runs in a thread."""
