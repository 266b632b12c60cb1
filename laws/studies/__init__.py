"""From a study's cells to fits, verdicts, advice and the study's report."""
