"""A server for the handler alone: `python -m serving.servers.standalone`."""
