"""The embedded Lambda runtime."""
