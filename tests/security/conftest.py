"""Security tests use the same host as the integration tests."""

from tests.integration.conftest import host, metald, minimal_image

__all__ = ["host", "metald", "minimal_image"]
