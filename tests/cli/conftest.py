"""A server on this machine for tests of downloads."""

from support.download import server

__all__ = ["server"]
