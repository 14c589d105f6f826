"""The way of a request from its bytes to its response: routing, admission, decode, run, encode, errors."""
