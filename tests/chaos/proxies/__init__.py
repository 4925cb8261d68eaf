"""What stands between the parts of the rig and does harm on request."""
