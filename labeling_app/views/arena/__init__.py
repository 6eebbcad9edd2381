"""The arena: models compared blind."""
