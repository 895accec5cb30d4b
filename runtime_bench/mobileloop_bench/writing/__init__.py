"""How figures, lists and documents are written; nothing here knows what they mean."""
