"""What filling gaps costs from labels to disk, and one real task beside what others use."""
