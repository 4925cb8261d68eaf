"""The ingest engine: keyspace notifications of Redis or Valkey, delivered to AWS Lambda, at least once."""

__version__ = "0.1.0"
