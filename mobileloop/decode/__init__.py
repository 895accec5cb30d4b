"""Generation over any session: sampling, one answer, several in a batch."""
