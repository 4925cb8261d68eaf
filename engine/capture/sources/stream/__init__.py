"""The ``stream`` source: consumer groups on streams that applications write."""
