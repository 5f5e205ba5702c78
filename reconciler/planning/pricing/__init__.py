"""What a fleet costs by its price plans."""
