"""A function written for the 2020 original's payload."""
