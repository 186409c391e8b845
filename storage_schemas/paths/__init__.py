"""Paths on file systems and in buckets."""
