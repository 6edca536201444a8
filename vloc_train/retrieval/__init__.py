"""Training of descriptor extractors for place retrieval, and maps that are made of their descriptors."""
