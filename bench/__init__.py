"""Benchmarks: each carries a claim of the documentation; docs/benchmarks/README.md lists them with their pages."""
