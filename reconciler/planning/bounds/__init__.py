"""What a plan may be about: parts, holds, limits, and what waits."""
