"""What a graph's operations do, and which of their arguments a request decides."""
