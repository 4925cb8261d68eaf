"""The embedded stack: a real Valkey server, a DynamoDB, a Lambda runtime."""
