"""Results → pages: one HTML file that needs nothing else, and Markdown."""
