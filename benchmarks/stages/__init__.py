"""What each stage of a flow's training brings."""
