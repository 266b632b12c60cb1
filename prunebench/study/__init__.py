"""Studies: what is to be measured, in which order, by whom, and what it cost."""
