"""Protocols: bytes ↔ named arrays.

Each module offers `decode`, `encode` and `example`; they know Signature, never Model.
"""
