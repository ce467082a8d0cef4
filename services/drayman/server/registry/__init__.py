"""The registry: versioned artifacts."""
