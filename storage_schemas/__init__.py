"""What is on disk: each format one small module of pure encode and decode."""
