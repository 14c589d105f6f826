"""`python -m serving verify`: test with real servers that answers depend only on the request. Not deployed."""
