"""Fork, watch, restart, drain, reload: no threads, no clients, no AWS and no Redis in it."""
