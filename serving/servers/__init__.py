"""Each server's requests to ours and back, and how each server is started."""
