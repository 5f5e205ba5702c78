"""The reconcile loop and its control socket; the one-shot commands run the same operations."""
