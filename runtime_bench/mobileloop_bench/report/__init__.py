"""The report: one page, a summary, charts."""
