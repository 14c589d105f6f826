"""From the bytes of a request to its response: routing, admission, decode, run, encode, errors."""
