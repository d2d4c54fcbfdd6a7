"""Earmark's own API under `/v1`: snake_case, RFC 9457 errors, OpenAPI with operation ids."""

from earmark.web.api.routes import router

__all__ = ["router"]
