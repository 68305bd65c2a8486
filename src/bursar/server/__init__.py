"""The service: HTTP, authentication, jobs and settings around the authority."""
