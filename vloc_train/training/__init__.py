"""What every trainer and builder shares."""
