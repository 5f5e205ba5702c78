"""Plans as data: what is printed, saved, compared and taken back."""
