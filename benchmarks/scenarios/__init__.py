"""Loads with names, from files that users edit."""
