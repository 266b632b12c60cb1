"""How a budget is spread over layers: one file per way. This list is what the command line knows."""
