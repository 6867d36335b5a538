"""One served application, and all its callers: those that mean well, and those that mean harm."""
