"""The Factory API client."""
