"""The console: a process that shows a running engine by HTTP, to Prometheus and to people."""
