"""Teacher references, scores of students, and the second search's pictures."""
