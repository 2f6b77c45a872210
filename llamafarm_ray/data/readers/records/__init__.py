"""Readers of structured data, record by record: CSV, JSON, Parquet, Arrow and XML."""
