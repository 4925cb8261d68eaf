"""What it is measured on: servers, loads, a running engine, its accounting."""
