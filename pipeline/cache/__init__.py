"""Commands on the store's entries, one module a command."""
