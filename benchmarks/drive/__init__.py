"""Open-loop load: commands that are sent when they are due, whatever the answers take."""
