"""The SQL study store, and the only SQL."""
