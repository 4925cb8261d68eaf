"""What happens to a server that events do not report, and whether its idle times can be believed."""
