"""Batches of changed keys → items of a DynamoDB table."""
