"""Results: the versioned document, the store, the comparison of two."""
