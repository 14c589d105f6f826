"""Is a served model a function of its request alone? `python -m serving verify` asks real servers; never deployed."""
