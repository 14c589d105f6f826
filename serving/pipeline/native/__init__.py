"""The native codec, which answers plain requests in C++, and how it is compiled."""
