"""Entries: found by key, written by drafts, verified by hash."""
