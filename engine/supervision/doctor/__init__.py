"""What `engine check` examines beyond what a start needs: margins, and what will fail later, each with a remedy."""
