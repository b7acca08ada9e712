"""What a candidate is worth: losses, latency and engines."""
