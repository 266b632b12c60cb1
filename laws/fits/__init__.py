"""From points to fitted laws: what the parameters are, how sure that is, and how far off the law is where it was not fitted."""
