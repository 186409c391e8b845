"""The configuration: presets, loading, and the explanation of mistakes."""
