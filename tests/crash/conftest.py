"""Crash tests use the same host as the integration tests."""

from tests.integration.conftest import host, minimal_image

__all__ = ["host", "minimal_image"]
