"""What happens to a server that events do not tell, and whether its idle times can be believed."""
