"""Scripts that measure what the project claims; each states its question and writes raw data and a page."""
