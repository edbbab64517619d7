"""The `ham` command."""
