"""Batches of changed keys → compressed JSON lines in an S3 bucket, under date partitions."""
