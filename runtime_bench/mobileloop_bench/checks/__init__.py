"""Our own methods held against others: other programs, planted slowdowns, measurements."""
