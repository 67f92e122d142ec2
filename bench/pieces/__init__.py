"""The service's own pieces, one operation at a time, beside what others offer for the same."""
