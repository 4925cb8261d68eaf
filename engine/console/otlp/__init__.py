"""What the console's process sends to a receiver of OTLP, by OpenTelemetry's own SDK."""
