"""Up to when everything is settled, and how that is kept."""
