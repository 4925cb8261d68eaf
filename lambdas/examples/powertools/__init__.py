"""A function of one's own, with AWS Lambda Powertools."""
