"""What the families of foreign weights share."""
