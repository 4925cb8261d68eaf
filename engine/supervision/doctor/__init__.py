"""What `engine check` looks at beside what a start needs: margins, and what will fail later, each with a remedy."""
