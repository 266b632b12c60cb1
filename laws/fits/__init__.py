"""From points to fitted laws: their parameters, how sure those are, and how far off a law is elsewhere."""
