"""Chat templates, as an artifact carries them: untrusted."""
