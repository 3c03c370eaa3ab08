"""The machinery that every dataset family shares."""
