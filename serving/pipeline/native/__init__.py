"""The quick way of plain requests, in C++, and how it is compiled."""
