"""What people look at: summaries of plans and results, as text."""
