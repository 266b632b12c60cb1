"""What the measurements say: the ceiling, the report, and later the laws and claims."""
