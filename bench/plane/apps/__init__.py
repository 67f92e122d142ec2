"""What the peers run: the same work, as each of their guides would have it written."""
