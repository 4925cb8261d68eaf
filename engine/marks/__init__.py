"""Marks: keys that an audit, a redrive or a comparison wants to be delivered again, published to the running engine."""
