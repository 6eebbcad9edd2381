"""Files into the label store and out of it, for admins."""
