"""``make outage``: a function that is down at full write load, and what it costs memory, disk and the other routes."""
