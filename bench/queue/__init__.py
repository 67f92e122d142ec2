"""Durable executions beside Celery with Redis."""
