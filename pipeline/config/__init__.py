"""The configuration: presets, loading, and explaining mistakes."""
