"""Networks: architectures, loading, weights files, and what a forward pass costs."""
